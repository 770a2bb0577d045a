"""Teachers of every kind, in folders that transformers and sentence-transformers wrote."""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, PreTrainedTokenizerFast

from teacherzoo import Corpus, TeacherError, load_teacher, rank, record
from teacherzoo.encoders.heads import SplitHead
from teacherzoo.encoders.kinds import PLAIN_NAMES, same_class
from teacherzoo.vectors.encoder import open_sentence_encoder
from vocabmerge import Kind, VocabularyError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip


@pytest.fixture(scope="module")
def save(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    def save_as(architecture: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        torch.manual_seed(0)
        built = {"add_pooling_layer": False} if options.pop("bare", False) else {}
        config = BertConfig(
            vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES, **options
        )
        getattr(transformers, architecture)(config, **built).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save_as


KINDS = {
    "BertForMaskedLM": Kind.MASKED_LM,
    "BertModel": Kind.HEADLESS,
    "BertForSequenceClassification": Kind.CLASSIFIER,
    "BertForTokenClassification": Kind.TOKEN_CLASSIFIER,
    "BertForQuestionAnswering": Kind.QUESTION_ANSWERING,
}


def test_every_kind_has_a_name() -> None:
    assert set(PLAIN_NAMES) == set(Kind)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_teacher_is_opened_as_what_it_was_saved_as(
    architecture: str, save: Callable[..., Path]
) -> None:
    folder = save(architecture)

    teacher = load_teacher(folder, headless=True)

    assert teacher.kind is KINDS[architecture]
    assert type(teacher.model).__name__ == architecture
    assert not teacher.model.training
    saved = getattr(transformers, architecture).from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in teacher.model.state_dict().items())  # fmt: skip
    assert isinstance(teacher.head, SplitHead) == (architecture == "BertForMaskedLM")


def test_a_pooler_is_there_only_if_the_file_has_one(save: Callable[..., Path]) -> None:
    bare, pooled = (load_teacher(save("BertModel", bare=bare), headless=True).model for bare in (True, False))  # fmt: skip

    assert bare.pooler is None
    assert pooled.pooler is not None
    assert same_class(bare, bare.config).pooler is None
    assert same_class(pooled, pooled.config).pooler is not None


def test_folders_of_sentence_transformers_teach(save: Callable[..., Path], tmp_path: Path) -> None:
    modules = [Transformer(str(save("BertModel", bare=True))), Pooling(16), Dense(16, 8), Normalize()]  # fmt: skip
    SentenceTransformer(modules=modules).save(str(tmp_path / "sentences"))
    CrossEncoder(str(save("BertForSequenceClassification", num_labels=1))).save_pretrained(str(tmp_path / "reranker"))  # fmt: skip

    encoder = load_teacher(tmp_path / "sentences", headless=True)
    reranker = load_teacher(tmp_path / "reranker", headless=True)

    assert (encoder.kind, type(encoder.model).__name__) == (Kind.SENTENCE, "BertModel")
    assert (reranker.kind, reranker.model.config.num_labels) == (Kind.CLASSIFIER, 1)
    assert encoder.tokenizer_digest == reranker.tokenizer_digest
    # What stands behind the encoder is part of what tells one teacher from another.
    before = encoder.weights_digest
    dense = tmp_path / "sentences" / "2_Dense" / "model.safetensors"
    dense.write_bytes(dense.read_bytes()[:-1] + b"\x01")
    assert load_teacher(tmp_path / "sentences", headless=True).weights_digest != before


def test_what_needs_a_masked_lm_refuses_every_other_kind_by_name(
    save: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    folder = save("BertModel")

    for refused in (
        lambda: load_teacher(folder),
        lambda: rank([folder], [Corpus("en", text)]),
        lambda: record(folder, [Corpus("en", text)], tmp_path / "out"),
    ):
        with pytest.raises(TeacherError) as caught:
            refused()
        assert f"{folder}: it was saved as BertModel" in str(caught.value)
        assert "choose a model saved with its masked-LM head" in str(caught.value)
    with pytest.raises(TeacherError, match="an encoder without a head, whose files hold no masked-LM head"):  # fmt: skip
        load_teacher(folder, headless=True).masked_lm  # noqa: B018


def test_a_mask_token_is_needed_only_where_text_is_masked(
    save: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = save("BertModel")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"mask_token"', '"no_token"'))

    assert load_teacher(folder, headless=True).space.mask == -1


def test_a_class_that_is_not_named_is_told_by_the_weights(save: Callable[..., Path]) -> None:
    for architecture, kind in (("BertForMaskedLM", Kind.MASKED_LM), ("BertModel", Kind.HEADLESS)):
        folder = save(architecture)
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"architectures"', '"classes"'))

        assert load_teacher(folder, headless=True).kind is kind


@pytest.mark.parametrize("headless", [False, True])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model_type": ["bert"]}, r"model_type: expected a name such as \"bert\", got \['bert'\]"),
        ({"model_type": 3}, r"model_type: expected a name such as \"bert\", got 3"),
        ({"architectures": "BertForMaskedLM"}, "architectures: expected a list of classes"),
        ({"vocab_size": "30"}, "Field 'vocab_size' expected int, got str"),
    ],
)
def test_a_setting_of_another_kind_is_one_sentence(
    setting: dict[str, Any], message: str, headless: bool, save: Callable[..., Path]
) -> None:
    file = save("BertForMaskedLM") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))

    with pytest.raises((TeacherError, VocabularyError), match=message) as refusal:
        load_teacher(file.parent, headless=headless)

    assert str(refusal.value).startswith(str(file.parent))
    assert "\n" not in str(refusal.value)


def test_missing_weights_are_refused_and_never_made_up(save: Callable[..., Path]) -> None:
    folder = save("BertModel")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("BertModel", "BertForTokenClassification"))

    with pytest.raises(TeacherError, match=r"2 weights are not in its files, among them 'classifier.bias'"):  # fmt: skip
        load_teacher(folder, headless=True)


@pytest.fixture(scope="module")
def of_older_days(
    save: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A sentence encoder with a Dense as written today, and with all its weights in PyTorch's own format."""
    today, older = (tmp_path_factory.mktemp(name) for name in ("today", "older"))
    torch.manual_seed(0)
    modules = [Transformer(str(save("BertModel", bare=True))), Pooling(16), Dense(16, 8)]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save(str(today))
    model.save(str(older), safe_serialization=False)
    for file in older.rglob("*.safetensors"):  # transformers knows no other format any more
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
    return today, older


def test_a_repository_without_safetensors_is_fetched_with_the_weights_that_it_has(
    of_older_days: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today, older = of_older_days

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        for file in older.rglob("*"):
            place = file.relative_to(older)
            if file.is_file() and any(fnmatch(place.as_posix(), wish) for wish in allow_patterns):
                (tmp_path / name / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / name / place)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)

    teacher = load_teacher("someone/encoder", headless=True)

    assert teacher.kind is Kind.SENTENCE
    expected = load_teacher(today, headless=True).model.state_dict()
    assert all(torch.equal(its, expected[name]) for name, its in teacher.model.state_dict().items())
    vectors = [open_sentence_encoder(folder, device="cpu").encode(["ab"]) for folder in (teacher.folder, today)]  # fmt: skip
    assert vectors[0].tolist() == vectors[1].tolist()


def test_weights_that_would_run_code_are_refused_in_a_sentence(
    of_older_days: tuple[Path, Path], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"

    class Program:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    for place in ("", "2_Dense"):
        folder = shutil.copytree(of_older_days[1], tmp_path / f"model{place}")
        torch.save({"weight": Program()}, folder / place / "pytorch_model.bin")
        with pytest.raises(TeacherError, match=f"model{place}: ") as refusal:
            open_sentence_encoder(folder) if place else load_teacher(folder, headless=True)
        assert "\n" not in str(refusal.value)
    assert not ran.exists()


@pytest.mark.parametrize("headless", [False, True])
def test_nobody_is_asked_whether_code_that_comes_with_a_model_may_run(
    headless: bool, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks, and runs it after a yes."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    folder, ran = shutil.copytree(save("BertForMaskedLM"), tmp_path / "model"), tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "her_own", "auto_map": {"AutoConfig": "code.Own", "AutoModelForMaskedLM": "code.Own"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | own))

    with pytest.raises(TeacherError, match="code"):
        load_teacher(folder, headless=headless)
    assert not ran.exists()
