"""Cuts published tokenizers down to a few hundred pieces: those that some sentences need, with all that makes them.

python cut.py SHARED E5 CLIP_BPE_GZ MISTRAL_MODEL, with the folder of published tokenizers (NAME/tokenizer.json.xz), a
folder of multilingual-e5-small, CLIP's list of merges and Mistral's sentencepiece model. Writes NAME.json beside itself.
"""

import base64
import gzip
import io
import json
import lzma
import sys
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer

SENTENCES = (
    "The quick brown foxes weren't jumping over 13 lazy dogs, were they? It's unbelievable!",
    "Ein Fußgänger überquerte die Straße; danach ging er in die Bücherei und las Wörterbücher.",
    "Mtoto anasoma kitabu kikubwa shuleni kila siku asubuhi, na mwalimu anamsaidia.",
    "def main(argument):\n    return {'a': [1, 2], 'b': None}  # a comment",
    "中文的句子，没有空格。 Кошка сидит на окне и смотрит вдаль.",
    "naïve café ﬁne １２３ résumé",
)
# A few of the rules of the charsmap that multilingual-e5-small has whole: wide digits, a ligature, odd spaces, controls.
CHARSMAP = {**{0xFF10 + n: f"{n}" for n in range(10)}, 0xFB01: "fi", 0x3000: " ", 0xA0: " ", 0x200B: " ", 0x0007: "", 0xFF0C: ","}  # fmt: skip


def cut(tokenizer, pieces_that_stay=()):
    """The tokenizer with the pieces of the sentences, in their old order, and nothing left that names others."""
    opened = Tokenizer.from_str(json.dumps(tokenizer))
    model = tokenizer["model"]
    added = {token["content"] for token in tokenizer["added_tokens"]}
    added -= {token for token in added if "unused" in token and token != "[unused0]"}
    entries = model["vocab"]
    ordered = (
        sorted(entries, key=entries.get)
        if isinstance(entries, dict)
        else [piece for piece, _ in entries]
    )
    kept = set(added) | set(pieces_that_stay) | {model.get("unk_token")} - {None}
    for sentence in SENTENCES:
        kept.update(opened.encode(sentence, add_special_tokens=False).tokens)
    merges = [tuple(merge) for merge in model.get("merges", [])]
    maker = {}
    for left, right in merges:
        maker.setdefault(left + right, (left, right))
    todo = list(kept)
    while todo:  # what a merge joins stays with what it makes
        parts = set(maker.get(todo.pop(), ())) - kept
        kept |= parts
        todo += parts
    if merges and "Ġ" in ordered:  # byte-level
        kept |= {piece for piece in ordered if len(piece.removesuffix("</w>")) == 1}
    names = [piece for piece in ordered if piece in kept]
    names += [
        token["content"]
        for token in tokenizer["added_tokens"]
        if token["content"] in added and token["content"] not in names
    ]
    number = {name: place for place, name in enumerate(names)}
    if isinstance(entries, dict):
        model["vocab"] = {name: place for name, place in number.items() if name in entries}
    else:
        model["vocab"] = [entry for entry in entries if entry[0] in kept]
        model["unk_id"] = number[entries[model["unk_id"]][0]]
    if merges:
        model["merges"] = [
            list(pair) for pair in merges if {*pair, pair[0] + pair[1]} <= set(names)
        ]
    tokenizer["added_tokens"] = [
        {**token, "id": number[token["content"]]}
        for token in tokenizer["added_tokens"]
        if token["content"] in added
    ]
    after = tokenizer["post_processor"] or {}
    for entry in after.get("special_tokens", {}).values():
        entry["ids"] = [number[token] for token in entry["tokens"]]
    for end in {"sep", "cls"} & set(after):
        after[end] = [after[end][0], number[after[end][0]]]
    return tokenizer


def small_charsmap():
    """A charsmap with the rules of `CHARSMAP` alone, made by sentencepiece."""
    rules = Path("rules.tsv")
    rules.write_text("".join(f"{source:X}\t{' '.join(f'{ord(c):X}' for c in target)}\n" for source, target in CHARSMAP.items()))  # fmt: skip
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES[:2] * 20),
        model_writer=written,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        normalization_rule_tsv=str(rules),
    )
    rules.unlink()
    from sentencepiece import sentencepiece_model_pb2 as protocol

    model = protocol.ModelProto.FromString(written.getvalue())
    return base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()


SPECIAL = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


def clip(file):
    """CLIP's tokenizer as transformers writes it, from the published merges."""
    lines = gzip.decompress(Path(file).read_bytes()).decode().split("\n")
    merges = [line.split() for line in lines[1 : 49152 - 256 - 2 + 1]]
    from vocabmerge.families.pieces import BYTE_ALPHABET

    letters = [BYTE_ALPHABET[byte] for byte in sorted(BYTE_ALPHABET, key=lambda byte: ord(BYTE_ALPHABET[byte]))]  # fmt: skip
    ends = ["<|startoftext|>", "<|endoftext|>"]
    names = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), *ends]
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": names.index(end), "content": end, **SPECIAL} for end in ends],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Removed",
                    "invert": True,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [ends[1], names.index(ends[1])],
            "cls": [ends[0], names.index(ends[0])],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "unk_token": ends[1],
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": {name: place for place, name in enumerate(names)},
            "merges": merges,
        },
    }


def mistral(file):
    """Mistral's first tokenizer as transformers writes one of Llama's kind."""
    from sentencepiece import sentencepiece_model_pb2 as protocol

    pieces = protocol.ModelProto.FromString(Path(file).read_bytes()).pieces
    vocab = {piece.piece: place for place, piece in enumerate(pieces)}
    splits = ((p.piece[:cut], p.piece[cut:]) for p in pieces if p.type == 1 for cut in range(1, len(p.piece)))  # fmt: skip
    merges = sorted((pair for pair in splits if {*pair} <= set(vocab)), key=lambda pair: vocab[pair[0] + pair[1]])  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": place, "content": token, **SPECIAL}
            for place, token in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [list(merge) for merge in merges],
        },
    }


def main():
    """Cut all of them."""
    shared, e5, clip_file, mistral_file = sys.argv[1:]
    made = {}
    for name in ("bert-base-uncased", "gpt2", "ModernBERT-base"):
        made[name] = cut(
            json.loads(lzma.decompress(Path(shared, name, "tokenizer.json.xz").read_bytes())),
            ["[unused1]", "[unused2]"] if name == "bert-base-uncased" else [],
        )
    xlmr = cut(json.loads(Path(e5, "tokenizer.json").read_text("utf-8")))
    xlmr["normalizer"]["normalizers"][0]["precompiled_charsmap"] = small_charsmap()
    made["multilingual-e5-small"] = xlmr
    made["clip-vit"] = cut(clip(clip_file))
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    made["mistral-7b"] = cut(mistral(mistral_file), bytes_)
    for name, tokenizer in made.items():
        form = Tokenizer.from_str(json.dumps(tokenizer)).to_str(pretty=False)
        Path(__file__).with_name(f"{name}.json").write_text(form + "\n", encoding="utf-8")
        print(name, Tokenizer.from_str(form).get_vocab_size(), len(form))


if __name__ == "__main__":
    main()
