"""A small town: two languages, their text, teachers of each, and recipes over them; pretrained once for all tests.

Beside it real prose in English, with teachers whose tokenizers are of two families."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from toyworld import World
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from mergedistill.recipe.read import read_recipe
from mergedistill.recipe.recipe import Recipe
from teacherzoo import Corpus
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher

LANGUAGES = ("qav", "qag")
BODY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `qav.txt` and `qag.txt` and teachers: `wp` and `wp-other` (one tokenizer, other weights) and `uni` of
    the first language, `foreign` of the second."""
    folder = tmp_path_factory.mktemp("town")
    toy = World(seed=0)
    for language in LANGUAGES:
        text = "\n".join(toy.sentences(language, 400)) + "\n"
        (folder / f"{language}.txt").write_text(text, encoding="utf-8")
    pretrained = (
        ("wp", "qav", "wordpiece"),
        ("uni", "qav", "unigram"),
        ("foreign", "qag", "wordpiece"),
    )
    for name, language, family in pretrained:
        pretrain_teacher(
            [Corpus(language, folder / f"{language}.txt", held_out_share=0.05)],
            folder / name,
            config=PretrainingConfig(
                family=family,  # type: ignore[arg-type]  # one of the two
                vocabulary=300,
                layers=2,
                width=32,
                steps=30,
                batch=16,
                length=32,
            ),
        )
    _shaken(folder / "wp", folder / "wp-other")
    return folder


def _shaken(source: Path, target: Path) -> None:
    """The same teacher with a little noise on its weights."""
    shutil.copytree(source, target)
    model = AutoModelForMaskedLM.from_pretrained(source)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(target)


@pytest.fixture
def recipe_of(town: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes: the keys given replace those of a small one with a teacher for each language."""

    def made(**changes: object) -> Recipe:
        stated: dict[str, object] = {
            "out": "run",
            "languages": {language: str(town / f"{language}.txt") for language in LANGUAGES},
            "teachers": [
                {"teacher": str(town / "wp"), "languages": ["qav"]},
                {"teacher": str(town / "foreign"), "languages": ["qag"]},
            ],
            "held_out_share": 0.05,
            "rank": {"documents": 10},
            "vocabulary": {"normalizer": "keep"},
            "student": {"layers": 1, "width": 32},
            "distil": {"block_length": 32},
            "train": {"steps": 4, "tokens": 256, "checkpoint_every": 2},
        }
        stated |= changes
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(stated))
        return read_recipe(file)

    return made


def _wordpiece(lines: list[str], folder: Path) -> None:
    """An uncased BERT, as `tokenizers` and transformers write it."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        lines,
        trainers.WordPieceTrainer(vocab_size=500, special_tokens=specials, show_progress=False),
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = BertTokenizerFast(tokenizer_object=made)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **BODY)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unigram(lines: list[str], folder: Path) -> None:
    """An XLM-R, as `tokenizers` and transformers write it."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    # SentencePiece learns no pieces of letters and punctuation together; what it has learnt it cuts at spaces alone.
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    made.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(
        lines,
        trainers.UnigramTrainer(
            vocab_size=700, special_tokens=specials, unk_token="<unk>", show_progress=False
        ),
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1, **BODY
    )
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real prose in `en.txt` and two teachers of it, `wordpiece` and `unigram`."""
    folder = tmp_path_factory.mktemp("families")
    shutil.copy(Path(__file__).parent / "prose.txt", folder / "en.txt")
    lines = (folder / "en.txt").read_text(encoding="utf-8").splitlines()
    _wordpiece(lines, folder / "wordpiece")
    _unigram(lines, folder / "unigram")
    return folder
