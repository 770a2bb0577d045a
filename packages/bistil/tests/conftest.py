"""Tiny teachers of every family and texts of two made-up languages, made where they are needed; nothing is fetched."""

import json
import platform
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABETS = {"en": "abcdefgh", "sw": "mnopqrst", "ha": "uvwxyzij"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(language: str, count: int = 400) -> list[str]:
    """Lines of made-up words, Zipf-like, in an alphabet of the language's own."""
    chance = random.Random(language)
    letters = ALPHABETS[language]
    words = ["".join(chance.choices(letters, k=chance.randint(2, 6))) for _ in range(150)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [
        " ".join(chance.choices(words, weights, k=chance.randint(3, 20))) + "."
        for _ in range(count)
    ]


def _pieces(texts: list[str], size: int) -> dict[str, int]:
    """Special ones, letters, and the commonest parts of words."""
    words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text))
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for start, end in combinations(range(len(word) + 1), 2):
            counts["##" * (start > 0) + word[start:end]] += count
    letters = sorted(piece for piece in counts if len(piece.removeprefix("##")) == 1)
    common = sorted(counts.keys() - {*letters}, key=lambda piece: (-counts[piece], piece))
    pieces = [*SPECIALS, *letters, *common][:size]
    return {piece: number for number, piece in enumerate(pieces)}


def wordpiece(texts: list[str], size: int = 300) -> PreTrainedTokenizerFast:
    """A BERT-like tokenizer of these texts, the same in every process: a trainer of tokenizers breaks its ties otherwise in each."""
    tokenizer = Tokenizer(models.WordPiece(_pieces(texts, size), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def masked_lm(
    family: str, *, seed: int = 0, pieces: int = 60, layers: int = 4, **options: Any
) -> Any:
    """A random masked LM, wide enough in its weights to have opinions, in evaluation mode."""
    settings: dict[str, Any] = {
        "vocab_size": pieces,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "initializer_range": 0.2,
    }
    if family == "distilbert":
        settings |= {"dim": 32, "hidden_dim": 48, "n_layers": layers, "n_heads": 4}
    if family == "modernbert":
        settings |= {"local_attention": 8, "initializer_cutoff_factor": 2.0}
    if family == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}  # fmt: skip
    if family == "eurobert":
        settings |= {"num_key_value_heads": 2, "mask_token_id": 4}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**settings, **options})
    return AutoModelForMaskedLM.from_config(config).eval()


@pytest.fixture(scope="session")
def make_masked_lm() -> Callable[..., Any]:
    return masked_lm


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Language to a text file."""
    folder = tmp_path_factory.mktemp("texts")
    files = {}
    for language in ALPHABETS:
        files[language] = folder / f"{language}.txt"
        files[language].write_text("\n".join(sentences(language)) + "\n", encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Of all the languages, so that a trim has something to cut."""
    return wordpiece([line for language in ALPHABETS for line in sentences(language)])


@pytest.fixture(scope="session")
def sums_are_cut_off() -> bool:
    """Whether the processor cuts sums of two products of eight bits off at sixteen: x86 without VNNI, which a model of 32 units feels."""
    return platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text()


@pytest.fixture(scope="session")
def save_teacher(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    def save(folder: Path, family: str = "bert", **options: Any) -> Path:
        masked_lm(family, pieces=len(tokenizer), **options).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, save_teacher: Callable[..., Path]) -> Path:
    """A BERT of four layers that knows three languages."""
    return save_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any, Path], int]]:
    """Writes a graph's float32 file, as `export` does here, and a model folder is traced once: it takes seconds each time."""
    from bistil.export.graph.float32 import write_float

    top = tmp_path_factory.mktemp("traced")
    traced: dict[Path, tuple[Path, int]] = {}

    def write(graph: Any, file: Path) -> int:
        if graph.folder not in traced:
            kept = top / f"{len(traced)}.onnx"
            traced[graph.folder] = kept, write_float(graph, kept)
        kept, opset = traced[graph.folder]
        shutil.copy(kept, file)
        return opset

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(import_module("bistil.export.run"), "write_float", write)
        yield write


@pytest.fixture(scope="session")
def read_json() -> Callable[[Path], Any]:
    return lambda path: json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def files_with_places(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """Of a folder, the files that say where on this machine something lies: all of it may be pushed."""
    place = str(tmp_path_factory.getbasetemp()).encode()
    return lambda folder: [
        file.name for file in folder.rglob("*") if file.is_file() and place in file.read_bytes()
    ]


@pytest.fixture(scope="session")
def lean(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: dict[str, Path]) -> Path:
    """The whole teacher with the pieces that two of its languages need."""
    from vocabmerge import trim

    folder = tmp_path_factory.mktemp("lean") / "lean"
    trim(teacher, {language: [texts[language]] for language in ("en", "sw")}, folder)
    return folder


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory, lean: Path) -> Path:
    """Layers 1 and 3 of the lean teacher."""
    from bistil.student.layers import student_of

    folder = tmp_path_factory.mktemp("student")
    student_of(AutoModelForMaskedLM.from_pretrained(lean), (1, 3)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((lean / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up data of seven tasks: English to train on, and Swahili and English to test on."""
    root = tmp_path_factory.mktemp("tasks")
    for language, splits in {"en": ("train", "dev", "test"), "sw": ("test",)}.items():
        lines = [line.rstrip(".").split()[:9] for line in sentences(language, 130)]
        for number, split in enumerate(splits):
            part = lines[:80] if split == "train" else lines[80 + 20 * number : 110 + 20 * number]
            _write_tasks(root, language, split, part)
    return root


def _write_tasks(root: Path, language: str, split: str, lines: list[list[str]]) -> None:
    def write(place: str, rows: list[str]) -> None:
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(rows) + "\n", encoding="utf-8")

    early = ALPHABETS[language][:3]
    short = [line for line in lines if len(line) > 2]
    write(f"ud/{language}_made/{split}.conllu", [
        "\n".join(
            f"{i}\t{word}\t_\t{'NOUN' if word[0] in early else 'VERB'}\t_\t_\t{i - 1}\t{'root' if i == 1 else 'obj'}\t_\t_"
            for i, word in enumerate(line, 1)
        ) + "\n"
        for line in lines
    ])  # fmt: skip
    write(f"ner/{language}/{split}.txt", [
        "\n".join(f"{word} {'B-PER' if word[0] in early else 'O'}" for word in line) + "\n" for line in lines
    ])  # fmt: skip
    write(f"sib200/{language}/{split}.tsv", ["index_id\tcategory\ttext"] + [
        f"{i}\t{'early' if line[0][0] in early else 'late'}\t{' '.join(line)}" for i, line in enumerate(lines)
    ])  # fmt: skip
    write(f"nli/{language}/{split}.tsv", [
        f"{' '.join(line)}\t{line[0] if i % 2 else line[-1]}\t{'entailment' if i % 2 else 'neutral'}"
        for i, line in enumerate(short)
    ])  # fmt: skip
    rows = [
        {
            "context": " ".join(line),
            "qas": [{
                "id": str(i), "question": line[0],
                "answers": [{"text": line[1], "answer_start": len(line[0]) + 1}],
            }],
        }
        for i, line in enumerate(short)
    ]  # fmt: skip
    write(f"choice/{language}/{split}.jsonl", [
        json.dumps({
            "passage": " ".join(line), "question": line[-1], "options": [line[1], line[0], line[2]][: 3 - i % 2], "answer": 1
        })
        for i, line in enumerate(short)
    ])  # fmt: skip
    place = f"xquad/{language}/{split}.json"
    write(place, [json.dumps({"data": [{"title": "x", "paragraphs": rows}]})])


@pytest.fixture(scope="session")
def sentence_teacher(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A sentence encoder of four layers as sentence-transformers writes it: mean pooling, a Dense, a norm, prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )

    encoder, folder = (tmp_path_factory.mktemp(name) for name in ("encoder", "sentences"))
    masked_lm("bert", pieces=len(tokenizer), initializer_range=0.4).base_model.save_pretrained(encoder)  # fmt: skip
    tokenizer.save_pretrained(encoder)
    torch.manual_seed(0)
    modules = [Transformer(str(encoder), max_seq_length=40), Pooling(32, "mean"), Dense(32, 24), Normalize()]  # fmt: skip
    SentenceTransformer(modules=modules, prompts={"query": "ask: "}, device="cpu").save(str(folder))
    return folder
