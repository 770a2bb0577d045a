import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from bistil.errors import ExtractError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.extract.trainer import held_out_terms
from bistil.losses.outputs import LossOutput
from bistil.losses.rows import SentenceTeacher
from bistil.losses.weights import LossWeights
from teacherzoo import Corpus, SignalsError, TeacherError, record_vectors
from vocabmerge import Kind

SHORT = Extraction(
    steps=12, batch=8, length=24, learning_rate=2e-3, held_out_share=0.1, checkpoint_every=5, prompts=("ask: ",), precision="float32"
)  # fmt: skip
EVERY = LossWeights(embedding=1, similarity=1, parallel=1)


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> Path:
    """Lines of the two languages side by side."""
    file = tmp_path_factory.mktemp("pairs") / "sw.tsv"
    lines = zip(*(texts[language].read_text().splitlines() for language in ("en", "sw")), strict=True)  # fmt: skip
    file.write_text("\n".join(map("\t".join, lines)) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(sentence_teacher: Path, texts: dict[str, Path]) -> Callable[..., Path]:
    def make(out: Path, **options: Any) -> Path:
        corpora = {language: texts[language] for language in ("en", "sw")}
        given: dict[str, Any] = {"source": "en", "targets": ["sw"], "extraction": SHORT, **options}
        return extract(given.pop("model", sentence_teacher), corpora, out, **given)

    return make


def test_a_student_is_opened_by_its_class_nearer_to_its_teacher_with_vectors_of_the_same_dimension(
    run: Callable[..., Path], sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    out = run(tmp_path / "student", extraction=replace(SHORT, steps=40))

    student, teacher = (SentenceTransformer(str(place), device="cpu") for place in (out, sentence_teacher))  # fmt: skip
    lines = texts["sw"].read_text().splitlines()[:40]
    vectors, expected = (model.encode(lines, prompt_name="query") for model in (student, teacher))
    assert student[0].auto_model.config.num_hidden_layers == 2
    assert vectors.shape == expected.shape == (40, 24)
    record = json.loads((out / "run.json").read_text())
    assert set(record["plan"]["terms"]) >= {"embedding"}
    assert record["plan"]["layers"] == [0, 3]
    for language in ("en", "sw"):
        before, after = (record["held_out"][when][language]["embedding"] for when in ("before", "after"))  # fmt: skip
        assert after < 0.9 * before
    weights = [load_file(place / "2_Dense" / "model.safetensors")["linear.weight"] for place in (out, sentence_teacher)]  # fmt: skip
    assert not torch.equal(*weights)  # a Dense is trained
    assert json.loads((out / "modules.json").read_text()) == json.loads((sentence_teacher / "modules.json").read_text())  # fmt: skip


def test_a_teacher_of_half_precision_teaches_by_its_dense_layer_in_float32(
    run: Callable[..., Path], sentence_teacher: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    half = SentenceTransformer(str(sentence_teacher), device="cpu").bfloat16()
    half.save(str(tmp_path / "half"))

    out = run(tmp_path / "out", model=tmp_path / "half", extraction=replace(SHORT, steps=2))

    student = SentenceTransformer(str(out), device="cpu")
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.encode(["ab cd"]).shape == half.encode(["ab cd"]).shape


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_in_the_same_bytes(
    run: Callable[..., Path], pairs: Path, tmp_path: Path, optimizer: Any
) -> None:
    options = {"extraction": replace(SHORT, loss=EVERY, prompts=("ask: ", ""), optimizer=optimizer)}
    whole = run(tmp_path / "whole", parallel={"sw": pairs}, **options)

    def stop(done: int, _total: int, what: str) -> None:
        if done >= 6 and what.startswith("extracting"):
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path / "again", parallel={"sw": pairs}, watch=stop, **options)
    assert list((tmp_path / ".again.making").rglob("checkpoint-5"))
    again = run(tmp_path / "again", parallel={"sw": pairs}, **options)

    for name in ("model.safetensors", "2_Dense/model.safetensors", "tokenizer.json"):
        assert (whole / name).read_bytes() == (again / name).read_bytes()
    log = json.loads((whole / "run.json").read_text())["log"]
    assert {"embedding_en", "embedding_sw", "similarity_sw", "parallel_sw"} <= {name for entry in log for name in entry}  # fmt: skip


def test_recorded_vectors_teach_as_the_teacher_does_without_its_being_run(
    run: Callable[..., Path], sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    loss = LossWeights.only(embedding=1, similarity=1)
    corpora = [Corpus(language, texts[language]) for language in ("en", "sw")]
    vectors = record_vectors(sentence_teacher, corpora, tmp_path / "vectors", prompts=["ask: "], length=24, precision="float32")  # fmt: skip
    extraction = replace(SHORT, loss=loss, steps=6)
    run_live = run(tmp_path / "live", extraction=extraction)

    def never(*_: Any) -> None:
        raise AssertionError("the teacher is run")

    ask = SentenceTeacher.__call__
    monkeypatch.setattr(SentenceTeacher, "__call__", lambda teacher, language, batch: ask(teacher, language, batch) if "teacher_vectors" in batch else never())  # fmt: skip
    recorded = run(tmp_path / "recorded", extraction=extraction, vectors=vectors.folder)

    live, taken = (json.loads((place / "run.json").read_text())["held_out"] for place in (run_live, recorded))  # fmt: skip
    for language in ("en", "sw"):
        for term in ("embedding", "similarity"):
            assert taken["before"][language][term] == pytest.approx(live["before"][language][term], rel=1e-4)  # fmt: skip
            assert taken["after"][language][term] == pytest.approx(live["after"][language][term], rel=1e-2)  # fmt: skip
    with pytest.raises(SignalsError, match="cut at 24 tokens, not at 16"):
        run(tmp_path / "other", extraction=replace(extraction, length=16), vectors=vectors.folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parallel": {"sw": "pairs"}}, "the term parallel has weight 0"),
        ({"extraction": replace(SHORT, loss=EVERY)}, "learns from translations, and none are given"),
        ({"extraction": replace(SHORT, loss=EVERY), "parallel": {"en": "pairs"}}, "the target languages are sw"),
        ({"extraction": replace(SHORT, loss=LossWeights.only(parallel=1)), "parallel": {"sw": "pairs"}}, "parallel is the only term"),
        ({"extraction": replace(SHORT, loss=EVERY), "parallel": {"sw": "three"}}, r"three.tsv, line 2: expected two columns .* got 3"),
        ({"extraction": replace(SHORT, loss=LossWeights(embedding=1)), "vectors": Path("vectors")}, "attention and hidden must see more"),
        ({"extraction": replace(SHORT, loss=LossWeights.only(embedding=1), width=16)}, "width 16"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_made(
    run: Callable[..., Path], pairs: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    three = tmp_path / "three.tsv"
    three.write_text("a\tb\na\tb\tc\n")
    files = {"pairs": pairs, "three": three}
    if "parallel" in options:
        options = {**options, "parallel": {language: files[name] for language, name in options["parallel"].items()}}  # fmt: skip

    with pytest.raises(ExtractError, match=words):
        run(tmp_path / "out", **options)
    assert not [place for place in tmp_path.iterdir() if place.name != "three.tsv"]


def test_prompts_and_terms_of_sentences_are_refused_for_a_masked_lm(
    run: Callable[..., Path], teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExtractError, match="prompts stand before the lines of a sentence encoder"):
        run(tmp_path / "out", model=teacher)
    with pytest.raises(ExtractError, match="embedding needs the pooling of a sentence encoder"):
        run(tmp_path / "out", model=teacher, extraction=replace(SHORT, prompts=(), loss=LossWeights(embedding=1)))  # fmt: skip


def test_a_missing_library_is_named_before_training(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    with pytest.raises(TeacherError, match="not installed; pip install sentence-transformers"):
        run(tmp_path / "out")


def test_the_command_takes_prompts_and_refuses_translations_of_three_columns(
    sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from bistil.cli.app import app

    three = tmp_path / "three.tsv"
    three.write_text("a\tb\tc\n")
    corpora = [f"--corpus={language}={texts[language]}" for language in ("en", "sw")]
    options = ["--source=en", "--target=sw", *corpora, "--steps=2", "--batch=2", "--length=16", "--prompt=ask: ", "--quiet"]  # fmt: skip

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["extract", str(sentence_teacher), "-o", str(tmp_path / "out"), *options, *more])  # fmt: skip

    refused = run("--term", "parallel=1", "--parallel", f"sw={three}")
    assert refused.exit_code == 2
    assert "three.tsv, line 1: expected two columns" in refused.output.replace("\n", " ")
    made = run()
    assert made.exit_code == 0, made.output
    extraction = json.loads((tmp_path / "out" / "run.json").read_text())["extraction"]
    assert extraction["prompts"] == ["ask: "]
    assert (extraction["learning_rate"], extraction["warmup"]) == (1e-3, 0.06)
    assert (extraction["loss"]["embedding"], extraction["loss"]["hidden"]) == (3, 1)


def test_matrices_of_the_layers_take_steps_of_muon_and_all_else_those_of_adamw(
    run: Callable[..., Path], sentence_teacher: Path, tmp_path: Path
) -> None:
    """One step, seen from its sizes: Muon's is the same in every direction of a matrix, AdamW's first in every number."""
    once = replace(
        SHORT, steps=1, learning_rate=1e-3, warmup=0.0, keep_vocabulary=True, optimizer="muon"
    )

    out = run(tmp_path / "student", extraction=once)

    before, after = (load_file(place / "model.safetensors") for place in (sentence_teacher, out))
    assert json.loads((out / "run.json").read_text())["extraction"]["optimizer"] == "muon"
    for name, weights in after.items():
        step = weights - before[name.replace("layer.1.", "layer.3.")]
        if "layer." in name and weights.dim() == 2:
            singular = torch.linalg.svdvals(step) / (1e-3 * 0.2 * max(weights.shape) ** 0.5)
            assert singular[0] < 1.4, name
            assert singular[3] > 0.6, name
        else:  # the gradient of a key's bias is hardly any
            assert step.abs().max() <= 1.01e-3, name
            assert "LayerNorm" not in name or step.abs().max() >= 0.99e-3, name


def test_muon_is_refused_beside_another_optimizer() -> None:
    with pytest.raises(ExtractError, match="optimizer is muon, and the Trainer arguments name optim"):  # fmt: skip
        Extraction(optimizer="muon", arguments={"optim": "sgd"})
    with pytest.raises(ExtractError, match="optimizer must be one of adamw, muon, got 'lion'"):
        Extraction(optimizer="lion")  # type: ignore[arg-type]  # as of a command line
    assert Extraction(arguments={"optim": "sgd"}).decided(Kind.SENTENCE).optimizer == "adamw"


def test_a_held_out_figure_is_the_mean_over_the_batches_that_its_term_is_computed_on() -> None:
    def model(*, language: str, **batch: torch.Tensor) -> LossOutput:
        name = "parallel" if "source_input_ids" in batch else "embedding"
        return LossOutput(torch.tensor(0.0), {name: batch["input_ids"].sum()})

    def batches(*values: float, name: str = "") -> Any:
        return [{"input_ids": torch.tensor([value]), **({name: torch.tensor([0])} if name else {})} for value in values]  # fmt: skip

    groups = {"en": [batches(2.0, 4.0)], "sw": [batches(2.0, 4.0), batches(6.0, 7.0, 8.0, name="source_input_ids")]}  # fmt: skip
    arguments: Any = SimpleNamespace(device=torch.device("cpu"), bf16=False, fp16=False)

    assert held_out_terms(cast(Any, model), groups, arguments) == {
        "en": {"embedding": 3.0},
        "sw": {"embedding": 3.0, "parallel": 7.0},
    }
