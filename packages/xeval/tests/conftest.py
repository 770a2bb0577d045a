"""Tiny models, tokenizers and data sets, made in seconds from a small invented language."""

import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest

NOUNS = ("hund", "katze", "haus", "buch", "baum", "stein", "fluss", "berg")
VERBS = ("sieht", "findet", "liebt", "hat", "sucht")
ADJECTIVES = ("rote", "kleine", "alte", "schnelle")
OTHER = {"hund": "perro", "katze": "gato", "haus": "casa", "buch": "libro", "sieht": "mira"}


def invented_sentence(draw: random.Random) -> list[tuple[str, str, int, str]]:
    """(word, tag, head, relation) of a sentence: DET (ADJ) NOUN VERB DET NOUN PUNCT."""
    words: list[tuple[str, str, int, str]] = []
    adjective = draw.random() < 0.5
    noun = 3 if adjective else 2
    words.append(("das", "DET", noun, "det"))
    if adjective:
        words.append((draw.choice(ADJECTIVES), "ADJ", noun, "amod"))
    words.append((draw.choice(NOUNS), "NOUN", noun + 1, "nsubj"))
    words.append((draw.choice(VERBS), "VERB", 0, "root"))
    words.append(("ein", "DET", noun + 3, "det"))
    words.append((draw.choice(NOUNS), "NOUN", noun + 1, "obj"))
    words.append((".", "PUNCT", noun + 1, "punct"))
    return words


def conllu(sentences: list[list[tuple[str, str, int, str]]]) -> str:
    blocks = []
    for sentence in sentences:
        lines = [
            f"{i}\t{word}\t_\t{tag}\t_\t_\t{head}\t{relation}\t_\t_"
            for i, (word, tag, head, relation) in enumerate(sentence, start=1)
        ]
        blocks.append("\n".join(lines) + "\n\n")
    return "".join(blocks)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XEVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def treebank_text() -> Callable[[str], str]:
    """CoNLL-U of twelve sentences that are drawn by a seed."""

    def make(seed: str) -> str:
        draw = random.Random(seed)
        return conllu([invented_sentence(draw) for _ in range(12)])

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the layout that xeval reads; `xx` is the source, `yy` shares only some words with it."""
    root = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    for split, size in (("train", 120), ("dev", 30), ("test", 40)):
        sentences = [invented_sentence(draw) for _ in range(size)]
        write(root / f"ud/xx_made/{split}.conllu.xz", conllu(sentences))
    target = [
        [(OTHER.get(word, word), *rest) for word, *rest in invented_sentence(draw)]
        for _ in range(25)
    ]
    write(root / "ud/yy_made/test.conllu", conllu(target))  # type: ignore[arg-type]
    write(root / "ud/zz_made/train.conllu", conllu(target))  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="session")
def text(data: Path) -> list[str]:
    draw = random.Random(1)
    lines = [" ".join(w for w, *_ in invented_sentence(draw)) for _ in range(300)]
    return lines + [" ".join(OTHER.get(w, w) for w in line.split()) for line in lines[:60]]


def _specials() -> dict[str, str]:
    return {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }


def _tokenizer(kind: str, text: list[str]) -> "object":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials)
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    made.train_from_iterator(text, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(s, made.token_to_id(s)) for s in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **_specials())


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, text: list[str]) -> Callable[[str], Path]:
    """Untrained masked language models: "bert" with a WordPiece, "modern" with a byte-level BPE tokenizer."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind in made:
            return made[kind]
        torch.manual_seed(0)
        tokenizer = _tokenizer("wordpiece" if kind == "bert" else "bytes", text)
        shape = {
            "vocab_size": len(tokenizer),  # type: ignore[arg-type]
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        }
        if kind == "bert":
            model: torch.nn.Module = BertForMaskedLM(BertConfig(**shape))
        else:
            model = ModernBertForMaskedLM(
                ModernBertConfig(
                    **shape,
                    cls_token_id=2,
                    sep_token_id=3,
                    bos_token_id=2,
                    eos_token_id=3,
                    global_attn_every_n_layers=1,
                    reference_compile=False,
                )
            )
        folder = tmp_path_factory.mktemp("models") / kind
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
        made[kind] = folder
        return folder

    return make


@pytest.fixture(scope="session")
def sentence_encoder(
    models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An untrained sentence encoder as sentence-transformers writes it, with a Dense and a prompt of its own."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(1)
    modules = [Transformer(str(models("bert"))), Pooling(32, "mean"), Dense(32, 16), Normalize()]
    folder = tmp_path_factory.mktemp("models") / "encoder"
    SentenceTransformer(modules=modules, prompts={"query": "das "}, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def sparse_encoder(models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained SPLADE as sentence-transformers writes it; many entries of its vectors are zeros."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    masked_lm = Transformer(str(models("bert")), transformer_task="fill-mask")
    for name, parameter in masked_lm.named_parameters():
        if parameter.dim() > 1:
            parameter.data *= 6
        elif name.endswith("predictions.bias"):
            parameter.data -= 0.7
    folder = tmp_path_factory.mktemp("models") / "splade"
    model = SparseEncoder(modules=[masked_lm, SpladePooling("max")], prompts={"query": "das "}, device="cpu")  # fmt: skip
    model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def reranker(models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained cross-encoder, as sentence-transformers writes it."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.manual_seed(2)
    model = CrossEncoder(str(models("bert")), num_labels=1, device="cpu")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6
    folder = tmp_path_factory.mktemp("models") / "reranker"
    model.save_pretrained(str(folder))
    return folder


TOPICS = {"hund": "tiere", "katze": "tiere", "haus": "dinge", "buch": "dinge"}


@pytest.fixture(scope="session")
def more_data(data: Path) -> Path:
    """The same folder with the other tasks' sets."""
    draw = random.Random(2)
    for language, splits in (("xx", {"train": 60, "dev": 16, "test": 16}), ("yy", {"test": 10})):
        for split, size in splits.items():
            sentences = [invented_sentence(draw) for _ in range(size)]
            topic = ["index_id\tcategory\ttext"]
            pairs = ["premise\thypothesis\tlabel"]
            same = ["sentence1\tsentence2\tlabel"]
            tags, asked, choices = [], [], []
            for i, sentence in enumerate(sentences):
                words = [w for w, *_ in sentence]
                noun = draw.choice(sorted(TOPICS))
                topic.append(f"{i}\t{TOPICS[noun]}\tdas {noun} .")
                label = draw.choice(["entailment", "neutral"])
                pairs.append(
                    f"das {noun} .\tdas {noun if label == 'entailment' else 'berg'} .\t{label}"
                )
                same.append(f"das {noun} .\tdas {noun} ein .\t{i % 2}")
                tags.append("\n".join(f"{w} {'B-PER' if w == 'hund' else 'O'}" for w in words))
                context = " ".join(words)
                options = ["haus", "katze", "berg"][: 2 + i % 2]
                chosen = {
                    "passage": context,
                    "question": "ein ?",
                    "options": options,
                    "answer": i % 2,
                }
                choices.append(json.dumps(chosen))
                asked.append(
                    {
                        "context": context,
                        "qas": [
                            {
                                "id": f"{split}{i}",
                                "question": "ein ?",
                                "answers": [{"text": words[1], "answer_start": 4}],
                            }
                        ],
                    }
                )
            write(data / f"sib200/{language}/{split}.tsv", "\n".join(topic) + "\n")
            write(data / f"nli/{language}/{split}.tsv.xz", "\n".join(pairs) + "\n")
            write(data / f"paraphrase/{language}/{split}.tsv", "\n".join(same) + "\n")
            write(data / f"choice/{language}/{split}.jsonl", "\n".join(choices))
            write(data / f"ner/{language}/{split}.txt", "\n\n".join(tags) + "\n\n")
            write(
                data / f"xquad/{language}/{split}.json",
                json.dumps({"data": [{"paragraphs": asked}]}),
            )
    lines = [" ".join(w for w, *_ in invented_sentence(draw)) for _ in range(30)]
    write(data / "corpora/xx.txt.xz", "\n".join(lines) + "\n")
    write(data / "tatoeba/yy.tsv", "\n".join(f"{a}\t{a}" for a in dict.fromkeys(lines)) + "\n")
    return data


@pytest.fixture(scope="session")
def tuned_pos(
    models: Callable[[str], Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tagger, tuned on xx for sixty steps."""
    from xeval.data.source import LocalFolder
    from xeval.finetune.tune import tune
    from xeval.protocol import Protocol

    top = tmp_path_factory.mktemp("tuned")
    tune(
        models("bert"), top / "pos", task="pos", source=LocalFolder(data, top / "cache"),
        language="xx", seed=3,
        protocol=Protocol(
            learning_rate=3e-3, batch_size=8, steps=60, evaluate_every=20, max_length=32
        ),
    )  # fmt: skip
    return top / "pos"
