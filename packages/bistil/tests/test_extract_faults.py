"""Every fault is one sentence, before anything is spent."""

import inspect
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.cli.extract import _loss, extract_command
from bistil.errors import BistilError, ExtractError, ModelError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.losses.weights import LossWeights
from teacherzoo import TeacherzooError
from vocabmerge import VocabularyError

SHORT = Extraction(steps=2, batch=2, length=32)


def _extract(teacher: Path, texts: dict[str, Path], out: Path, **options: Any) -> None:
    extract(
        teacher,
        **{
            "corpora": {"en": texts["en"], "sw": texts["sw"]},
            "out": out,
            "source": "en",
            "targets": ["sw"],
            "extraction": SHORT,
            **options,
        },
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["sw", "en"]}, "that all differ, got en, sw, en"),
        ({"targets": [], "corpora": {}}, "en: there is no corpus of this language, only of none"),
        ({"targets": ["ha"]}, "ha: there is no corpus of this language, only of en, sw; add ha=FILE"),
        ({"language_sfts": {"ha": "x"}}, "ha: a sparse fine-tuning is given, but the languages are en, sw"),
        ({"language_sfts": {"sw": "x"}, "extraction": Extraction(offload="cpu")}, "no sparse fine-tuning can be applied"),
        ({"extraction": Extraction(length=32, reduction=3)}, "does not divide the teacher's 4 layers"),
        ({"extraction": Extraction(length=500)}, "length 500 is beyond the teacher's limit of 80"),
        ({"extraction": Extraction(length=32, arguments={"seed": 3})}, "Trainer arguments: seed is decided elsewhere"),
        ({"extraction": Extraction(length=32, arguments={"wings": 3})}, "Trainer arguments: .*'wings'"),
        ({"extraction": Extraction(length=32, arguments={"average_tokens_across_devices": False})}, "a step's loss is divided by the positions of all"),
        ({"extraction": Extraction(length=32, arguments={"gradient_checkpointing": True})}, "gradient_checkpointing is not supported"),
        ({"extraction": Extraction(length=32, arguments={"label_smoothing_factor": 0.1})}, "label_smoothing_factor is not supported"),
        ({"licences": {"ha": "MIT"}}, "ha: a licence is given, but the languages are en, sw"),
        ({"extraction": Extraction(length=32, loss=LossWeights(relations=1, relation_heads=5))}, "5 relation heads do not divide the width 32"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_named(
    teacher: Path, texts: dict[str, Path], tmp_path: Path, options: Any, message: str
) -> None:
    with pytest.raises(BistilError, match=message) as refused:
        _extract(teacher, texts, tmp_path / "out", **options)

    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps must be at least 0"),
        ({"length": 4}, "length must be at least 8"),
        ({"mask_rate": 1.0}, r"mask_rate must be in \[0, 1\)"),
        ({"mask_rate": 0.0, "loss": LossWeights(mlm=1)}, "mask_rate 0 hides nothing"),
        ({"offload": "cpu", "loss": LossWeights(logits=1)}, "offload shares the teacher's weights"),
        (
            {"offload": "cpu", "arguments": {"deepspeed": {}}},
            "offload shares the teacher's weights",
        ),
        ({"learning_rate": -1e-3}, "learning_rate must be a number from 0 on, got -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number from 0 on, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be a number from 0 on, got inf"),
        ({"threshold": -1.0}, "threshold must be from 0 to 1, got -1.0"),
        ({"threshold": float("nan")}, "threshold must be from 0 to 1, got nan"),
        ({"init": "zeros"}, "init must be one of teacher, random, got 'zeros'"),
        ({"precision": "int3"}, "precision must be one of"),
        ({"top": 100, "budget": 100}, "one can hold"),
        ({"top": 100, "keep_vocabulary": True}, "one can hold"),
    ],
)
def test_values_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        Extraction(**settings)


def test_a_length_and_a_language_tag_are_refused_before_any_text_is_read(
    teacher: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extract.__globals__, "trimmed_teacher", None)
    with pytest.raises(ExtractError, match="length 500 is beyond the teacher's limit of 80"):
        _extract(teacher, texts, tmp_path / "out", extraction=Extraction(length=500))
    with pytest.raises(TeacherzooError, match=r"a language tag is made of letters.*got '\.\./sw'"):
        _extract(teacher, texts, tmp_path / "out", corpora={"en": texts["en"], "../sw": texts["sw"]}, targets=["../sw"])  # fmt: skip


def test_terms_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ExtractError, match="--term hidden is given twice; give it once"):
        _loss("bistil", ["hidden=1", "hidden=2"], "teacher", narrow=False)
    with pytest.raises(ExtractError, match="The weight of hidden must be a number from 0 on, got -1"):  # fmt: skip
        LossWeights(hidden=-1)
    with pytest.raises(ExtractError, match="Every term has weight 0"):
        LossWeights(attention=0, hidden=0)
    with pytest.raises(ExtractError, match="temperature"):
        LossWeights(temperature=0.0)


def test_corpora_that_are_none_are_named(teacher: Path, texts: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    short = tmp_path / "short.txt"
    short.write_text("mnop qrst\n")
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"mnop\n\xff\xfe\n")
    cases = {
        tmp_path / "none.txt": "none.txt",
        tmp_path / "records.jsonl": "sw: expected a text file",
        empty: "empty",
        short: "sw: its corpus does not fill one block",
        broken: "line 2: expected UTF-8",
    }
    for number, (file, message) in enumerate(cases.items()):
        with pytest.raises((BistilError, VocabularyError, TeacherzooError), match=message):
            _extract(teacher, texts, tmp_path / f"out{number}", corpora={"en": texts["en"], "sw": file})  # fmt: skip


def test_a_folder_in_the_way_and_another_runs_leavings_are_refused(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ExtractError, match="taken exists already"):
        _extract(teacher, texts, tmp_path / "taken")

    def stop(done: int, _total: int, what: str) -> None:
        if what.startswith("extracting") and done > 1:
            raise KeyboardInterrupt

    every = replace(SHORT, steps=3, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        _extract(teacher, texts, tmp_path / "out", extraction=every, watch=stop)
    with pytest.raises(ExtractError, match="left from a run with other arguments"):
        _extract(teacher, texts, tmp_path / "out")


def test_what_was_refused_at_its_second_language_is_called_again_with_more_text(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("mnop qrst\n")
    with pytest.raises(ExtractError, match="sw: its corpus does not fill one block"):
        _extract(teacher, texts, tmp_path / "out", corpora={"en": texts["en"], "sw": short})

    _extract(teacher, texts, tmp_path / "out")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "short.txt"]


def test_a_teacher_we_cannot_listen_to_is_refused(
    save_teacher: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    teacher = save_teacher(tmp_path / "albert", "albert", embedding_size=16)

    with pytest.raises(ModelError, match="attention of a 'albert' model cannot be reached"):
        _extract(teacher, texts, tmp_path / "out")


def test_a_training_that_diverges_stops_with_advice_and_stands_in_nobody_s_way(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(TeacherzooError, match="lower the learning rate"):
        _extract(
            teacher,
            texts,
            tmp_path / "out",
            extraction=Extraction(steps=40, batch=2, length=32, learning_rate=1e30),
        )

    assert not list(tmp_path.iterdir())


def test_the_command_can_say_all_that_the_function_can_and_defaults_to_the_same() -> None:
    options = inspect.signature(extract_command).parameters
    settings = {field.name: getattr(Extraction(), field.name) for field in fields(Extraction)}
    elsewhere = {"loss": ("style", "term"), "arguments": ("trainer",), "prompts": ("prompt",)}

    for name, default in settings.items():
        if name in elsewhere:
            assert set(elsewhere[name]) <= options.keys()
        else:
            assert options[name].default == default, name
    assert options["prompt"].default is None
    assert settings["prompts"] == ()
    assert _loss(None, [], "teacher", narrow=False) == settings["loss"]
    assert (
        _loss("minilmv2", ["relation_heads=8"], "teacher", narrow=False).settings["relation_heads"]
        == 8
    )
    function = inspect.signature(extract).parameters.keys() - {"watch", "tell", "extraction"}
    plural = {
        "corpora": "corpus",
        "targets": "target",
        "language_sfts": "language_sft",
        "licences": "licence",
    }
    assert {plural.get(name, name) for name in function} <= options.keys()


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_command_says_what_is_wrong_in_one_sentence(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    done = _run(
        "extract", teacher, "--source", "en", "--target", "sw", "--corpus", f"en={texts['en']}", "-o", tmp_path / "out"
    )  # fmt: skip

    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "sw: there is no corpus of this language, only of en; add sw=FILE."
    )
    assert "Traceback" not in done.stderr


def test_the_command_extracts_and_prints_its_plan_first(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    settings = tmp_path / "trainer.json"
    settings.write_text('{"max_grad_norm": 0.5}')
    done = _run(
        "extract", teacher, "--source", "en", "--target", "sw", "--corpus", f"en={texts['en']}",
        "--corpus", f"sw={texts['sw']}", "-o", tmp_path / "out", "--steps", 2, "--length", 32, "--batch", 2,
        "--layers", "0,3", "--term", "mlm=0.5", "--trainer", settings, "--json", "--held-out-share", 0.2,
        "--cache", tmp_path / "cache", "--licence", "sw=CC0-1.0",
    )  # fmt: skip

    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["plan"]["layers"] == [0, 3]
    assert told["plan"]["terms"] == {"attention": 1.0, "hidden": 1.0, "mlm": 0.5}
    assert told["extraction"]["arguments"] == {"max_grad_norm": 0.5}
    assert "vocabulary  " in done.stderr
    assert told["extraction"]["held_out_share"] == 0.2
    assert "`sw.txt`, licence: CC0-1.0" in (tmp_path / "out" / "README.md").read_text()
    assert len(list(tmp_path.glob("cache/sw-train-*/blocks.int32"))) == 1
