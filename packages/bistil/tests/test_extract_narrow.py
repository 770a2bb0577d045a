"""A student that is narrower than its teacher, from the extraction to the task."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.errors import AdaptError, ExtractError, ModelError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.losses.weights import PRESETS, LossWeights, TaskLossWeights
from bistil.lottery.config import Sparsity
from bistil.tasks.adapt import adapt
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from xeval import LocalFolder, Protocol, score

NARROW = Extraction(
    steps=12, batch=4, length=32, learning_rate=1e-3, held_out_share=0.1, checkpoint_every=5,
    width=16, feed_forward=24, precision="float32",
)  # fmt: skip
QUICK = TaskTraining(
    protocol=Protocol(
        learning_rate=3e-3, batch_size=8, steps=8, evaluate_every=4, max_length=64, precision="float32"
    ),
    sparsity=Sparsity(density=0.2),
)  # fmt: skip


class StopError(Exception):
    pass


def _extract(teacher: Path, texts: dict[str, Path], out: Path, **options: Any) -> Path:
    return extract(
        teacher,
        {"en": texts["en"], "sw": texts["sw"]},
        out,
        **{"source": "en", "targets": ["sw"], "extraction": NARROW, **options},
    )


@pytest.fixture(scope="module")
def student(
    teacher: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return _extract(teacher, texts, tmp_path_factory.mktemp("narrow") / "student")


def test_a_narrow_student_is_a_stock_folder_that_says_what_its_states_stand_for(
    student: Path,
) -> None:
    model = AutoModelForMaskedLM.from_pretrained(student)
    run = json.loads((student / "run.json").read_text())

    assert (model.config.hidden_size, model.config.intermediate_size) == (16, 24)
    assert model.config.num_attention_heads == 4
    assert len(run["plan"]["units"]) == 16
    assert run["extraction"]["width"] == 16
    card = (student / "README.md").read_text()
    assert "- Narrower: 16 of 32 hidden units; the projection of the teacher's states" in card
    assert "- Narrower: 24 of 48 units in each feed-forward layer" in card
    for language in ("en", "sw"):
        held_out = run["held_out"]
        assert held_out["after"][language]["hidden"] < held_out["before"][language]["hidden"]


def test_a_student_of_fewer_heads_is_compared_with_those_that_it_keeps_and_adapted_by_them(
    teacher: Path, texts: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    fewer = replace(NARROW, heads=2, loss=LossWeights(scores=0.1))
    out = _extract(teacher, texts, tmp_path / "student", extraction=fewer)

    config = AutoModel.from_pretrained(out).config
    run = json.loads((out / "run.json").read_text())
    assert (config.hidden_size, config.num_attention_heads) == (16, 2)
    assert run["extraction"]["heads"] == 2
    assert [len(set(kept)) for kept in run["plan"]["heads"]] == [2, 2]
    assert "- Narrower: 2 of 4 attention heads in each layer, of 8 units each" in (out / "README.md").read_text()  # fmt: skip
    before, after = (run["held_out"][when]["sw"] for when in ("before", "after"))
    assert sum(after.values()) < sum(before.values())
    assert min(after["attention"], after["scores"]) > 0

    source = LocalFolder(tasks, tmp_path / "cache")
    told: dict[str, Any] = {
        "task": "pos", "source": source, "language": "en", "training": QUICK, "teacher": TaskTeacher(model=teacher), "loss": TaskLossWeights(),
    }  # fmt: skip
    adapted = adapt(out, tmp_path / "adapted", **told)
    assert score(adapted, tmp_path / "results.jsonl", source=source, languages=["sw"])[0].value > 0
    run["plan"]["heads"] = None
    (out / "run.json").write_text(json.dumps(run))
    with pytest.raises(
        AdaptError, match=r"has 2 heads and the teacher 4, and no run\.json says which"
    ):
        adapt(out, tmp_path / "other", **told)


@pytest.mark.parametrize("units", ["reconstruction", "taylor", "bottleneck"])
def test_heads_are_chosen_by_each_measure(
    units: Literal["reconstruction", "taylor", "bottleneck"],
    save_teacher: Callable[..., Path],
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Of each layer two heads add nothing."""
    folder = save_teacher(tmp_path / "teacher")
    model = AutoModelForMaskedLM.from_pretrained(folder)
    for layer in model.bert.encoder.layer:
        layer.attention.output.dense.weight.data.unflatten(1, (4, 8))[:, [0, 3]] = 0
    model.save_pretrained(folder)
    asked = replace(NARROW, width=None, feed_forward=None, heads=2, units=units, steps=0)

    out = _extract(folder, texts, tmp_path / "student", extraction=asked)

    assert json.loads((out / "run.json").read_text())["plan"]["heads"] == [[1, 2], [1, 2]]


def test_widths_of_the_teacher_change_nothing(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    short = replace(NARROW, steps=2, width=None, feed_forward=None)

    one = _extract(teacher, texts, tmp_path / "one", extraction=short)
    other = _extract(
        teacher,
        texts,
        tmp_path / "other",
        extraction=replace(short, width=32, feed_forward=48, heads=4),
    )

    for name in ("model.safetensors", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("style", ["distilmbert", "minilmv2", "mlm"])
def test_other_ways_of_teaching_take_a_narrow_student(
    style: str, teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    init = "random" if style == "mlm" else "teacher"

    out = _extract(
        teacher, texts, tmp_path / "out", extraction=replace(NARROW, loss=PRESETS[style], init=init)
    )

    held_out = json.loads((out / "run.json").read_text())["held_out"]
    for term in PRESETS[style]:
        assert held_out["after"]["en"][term] < held_out["before"]["en"][term]


@pytest.mark.slow
def test_a_narrow_extraction_cut_off_ends_in_the_same_student(
    student: Path, teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    def watch(done: int, total: int, what: str) -> None:
        if what.startswith("extracting") and done == 8:
            raise StopError

    with pytest.raises(StopError):
        _extract(teacher, texts, tmp_path / "student", watch=watch)
    resumed = _extract(teacher, texts, tmp_path / "student")

    for name in ("model.safetensors", "config.json"):
        assert (resumed / name).read_bytes() == (student / name).read_bytes()


def test_units_of_a_sentence_encoder_are_chosen_once_by_bottlenecks_on_its_vectors(
    sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []

    def interrupt(_done: int, _total: int, what: str) -> None:
        told.append(what)
        if what.startswith("extracting"):
            raise StopError

    narrow = replace(NARROW, units="bottleneck", steps=3, width=None)
    with pytest.raises(StopError):
        _extract(sentence_teacher, texts, tmp_path / "student", extraction=narrow, watch=interrupt)
    assert "training information-bottleneck masks" in told
    again: list[str] = []
    out = _extract(
        sentence_teacher, texts, tmp_path / "student", extraction=narrow, watch=lambda _done, _total, what: again.append(what)
    )  # fmt: skip

    assert "training information-bottleneck masks" not in again
    assert SentenceTransformer(str(out)).encode(["abc"], prompt="ask: ").shape == (1, 24)
    assert AutoModel.from_pretrained(out).config.intermediate_size == 24
    run = json.loads((out / "run.json").read_text())
    assert run["extraction"]["units"] == "bottleneck"
    words = "24 of 48 units in each feed-forward layer by information-bottleneck masks"
    assert run["plan"]["narrowed"] == [words]


def test_widths_are_refused_before_text_is_read(
    save_teacher: Callable[..., Path], teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="width must be a multiple of the 4 attention heads"):
        _extract(teacher, texts, tmp_path / "out", extraction=replace(NARROW, width=18))
    with pytest.raises(ModelError, match="heads must divide the student's width 16, got 3"):
        _extract(teacher, texts, tmp_path / "out", extraction=replace(NARROW, heads=3))
    assert not (tmp_path / ".out.making" / "teacher").exists()
    with pytest.raises(ExtractError, match="units 'taylor' says what a narrower student keeps"):
        replace(NARROW, units="taylor", width=None, feed_forward=None)
    with pytest.raises(ExtractError, match="units must be one of reconstruction, taylor, bottleneck, got 'size'"):  # fmt: skip
        replace(NARROW, units="size")

    modern = save_teacher(tmp_path / "modern", "modernbert")
    done = CliRunner().invoke(
        app,
        [
            "extract", str(modern), "--source", "en", "--target", "sw", "--corpus", f"en={texts['en']}",
            "--corpus", f"sw={texts['sw']}", "-o", str(tmp_path / "out"), "--heads", "2", "--length", "32",
        ],
    )  # fmt: skip
    assert done.exit_code == 2
    assert (
        "heads 2: a 'modernbert' student must have its teacher's 4 heads"
        in done.stderr.splitlines()[-1]
    )


def test_a_narrow_student_is_adapted_under_its_teacher_and_no_other(
    student: Path, teacher: Path, tasks: Path, tmp_path: Path
) -> None:
    source = LocalFolder(tasks, tmp_path / "cache")
    told: dict[str, Any] = {
        "task": "pos", "source": source, "language": "en", "training": QUICK,
        "teacher": TaskTeacher(model=teacher),
    }  # fmt: skip

    adapted = adapt(student, tmp_path / "adapted", loss=TaskLossWeights(), **told)

    assert score(adapted, tmp_path / "results.jsonl", source=source, languages=["sw"])[0].value > 0
    (student / "run.json").rename(tmp_path / "run.json")
    try:
        with pytest.raises(
            AdaptError, match=r"16 wide and the teacher's 32, and no run\.json says"
        ):
            adapt(student, tmp_path / "other", **told)
    finally:
        (tmp_path / "run.json").rename(student / "run.json")
