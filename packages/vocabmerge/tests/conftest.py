"""Small tokenizers of every family, trained here on made-up languages."""

import json

import numpy as np
import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from vocabmerge import parse_vocabulary

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ALPHABETS = {
    "aa": "abdeiklmnorstu",
    "bb": "aeghijöprstväy",
    "cc": "अआकखगघचजटडतदनपबमरलसह",
    "mixed": "abdeiklmnorstuzñжипрстफबय",
}


def made_up_lines(code, count=400, seed=0):
    """Sentences over stems and endings, Zipf-like, with punctuation, brackets, digits and names."""
    rng = np.random.default_rng([seed, sum(map(ord, code))])
    letters = list(ALPHABETS[code])
    language = np.random.default_rng(sum(map(ord, code)))  # the words do not depend on the seed
    stems = ["".join(language.choice(letters, language.integers(2, 6))) for _ in range(150)]
    endings = ["", *("".join(language.choice(letters, language.integers(1, 4))) for _ in range(12))]
    weights = 1 / np.arange(1, len(stems) + 1)
    lines = []
    for _ in range(count):
        words = [
            str(rng.choice(stems, p=weights / weights.sum())) + str(rng.choice(endings))
            for _ in range(rng.integers(4, 12))
        ]
        if rng.random() < 0.3:
            words[0] = words[0].capitalize()
        if rng.random() < 0.2:
            words[1] = f"({words[1]})"
        if rng.random() < 0.2:
            words[2] += ","
        lines.append(" ".join(words) + str(rng.choice([".", "!", "?", " 7"])))
    return lines


def train(family, code, size=400, lines=None):
    """A tokenizer of a family; its parsed JSON."""
    lines = made_up_lines(code, 300) if lines is None else lines
    common = {"vocab_size": size, "show_progress": False}
    single = {"single": "<s> $A </s>", "special_tokens": [("<s>", 0), ("</s>", 2)]}
    if family == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(
            lowercase=False, strip_accents=False, handle_chinese_chars=False
        )
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(special_tokens=BERT, **common)
        post = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    elif family == "wordlevel":
        made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=BERT, **common)
        post = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    elif family == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=ROBERTA, unk_token="<unk>", **common)
        post = processors.TemplateProcessing(**single)
    else:
        made, trainer = _bpe(family, common)
        post = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.train_from_iterator(lines, trainer)
    made.post_processor = post
    parsed = json.loads(made.to_str())
    parsed["added_tokens"] = [
        token for token in parsed["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return parsed


def _bpe(family, common):
    if family == "bpe-byte":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return made, trainers.BpeTrainer(
            special_tokens=ROBERTA, initial_alphabet=alphabet, **common
        )
    if family == "bpe-byte-fallback":
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        specials = [*ROBERTA, *(f"<0x{byte:02X}>" for byte in range(256))]
        common = {**common, "vocab_size": common["vocab_size"] + 256}
        return made, trainers.BpeTrainer(special_tokens=specials, **common)
    made = Tokenizer(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>" if family == "bpe-plain" else "")
    )
    if family == "bpe-metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        return made, trainers.BpeTrainer(special_tokens=ROBERTA, **common)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder("</w>")
    return made, trainers.BpeTrainer(special_tokens=ROBERTA, end_of_word_suffix="</w>", **common)


@pytest.fixture(scope="session")
def lines_of():
    """Made-up text: `lines_of(code, count, seed)`."""
    return made_up_lines


@pytest.fixture(scope="session")
def trained():
    """A vocabulary of a family and language, trained once: `trained(family, code)`."""
    known = {}

    def get(family, code="aa", *, name=None, size=400):
        key = (family, code, size)
        if key not in known:
            known[key] = train(family, code, size)
        return parse_vocabulary(known[key], name=name or f"{family}-{code}")

    return get


FAMILIES = (
    "wordpiece",
    "unigram",
    "bpe-byte",
    "bpe-byte-fallback",
    "bpe-metaspace",
    "bpe-plain",
    "wordlevel",
)


@pytest.fixture(params=FAMILIES)
def family(request):
    """Every family in turn."""
    return request.param
