"""What eight bits lose on a user's text is measured, and kept within a bound or refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.errors import ExportError
from bistil.export.eight_bits.targets import TARGETS
from bistil.export.eight_bits.variants import Variant, write_variant
from bistil.export.folder.folder import FLOAT, INT8
from bistil.export.graph.graph import open_graph
from bistil.export.graph.session import open_session
from bistil.export.judge.drop import Judge, warnings_of
from bistil.export.judge.search import BoundError, Changes, search
from bistil.export.judge.text_answers import text_answers
from bistil.export.run import export

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Lines = dict[str, list[str]]
SEVEN_BITS = Variant(reduce_range=True)  # for which the processor makes no difference
BY_TENSOR = replace(SEVEN_BITS, per_tensor=True)


@pytest.fixture(scope="module")
def lines(texts: dict[str, Path]) -> Lines:
    return {language: texts[language].read_text().splitlines()[:60] for language in ("en", "sw")}


@pytest.fixture(scope="module")
def text_files(lines: Lines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sixty")
    for language, listed in lines.items():
        (folder / f"{language}.txt").write_text("\n".join(listed), encoding="utf-8")
    return {language: folder / f"{language}.txt" for language in lines}


@pytest.fixture(scope="module")
def sentence_encoder(
    tokenizer: Any,
    make_masked_lm: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Of two layers, as sentence-transformers writes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )

    encoder, folder = (tmp_path_factory.mktemp(name) for name in ("encoder", "sentences"))
    make_masked_lm("bert", pieces=len(tokenizer), layers=2, initializer_range=0.4).base_model.save_pretrained(encoder)  # fmt: skip
    tokenizer.save_pretrained(encoder)
    torch.manual_seed(0)
    modules = [Transformer(str(encoder), max_seq_length=40), Pooling(32, "mean"), Dense(32, 24), Normalize()]  # fmt: skip
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="module")
def with_outliers(sentence_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose embedding has rows a thousand times as long as the others, and a feed-forward layer a row of such weights."""
    folder = tmp_path_factory.mktemp("outliers") / "model"
    shutil.copytree(sentence_encoder, folder)
    weights = load_file(folder / "model.safetensors")
    [table] = [name for name in weights if name.endswith("word_embeddings.weight")]
    weights[table][40:44] *= 1000
    # What a norm makes small the map behind it makes large: the same function, but one weight in each column has all the scale.
    layer = next(name for name in weights if name.endswith("layer.1.intermediate.dense.weight")).removesuffix("intermediate.dense.weight")  # fmt: skip
    for part in ("weight", "bias"):
        weights[f"{layer}attention.output.LayerNorm.{part}"][3] /= 200
    weights[f"{layer}intermediate.dense.weight"][:, 3] *= 200
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def judged(
    with_outliers: Path,
    lines: Lines,
    traced_once: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Path, Judge]:
    """The graph of the model with outliers, its float32 file, and the judge of what smaller files lose."""
    graph = open_graph(str(with_outliers))
    file = tmp_path_factory.mktemp("float") / "model.onnx"
    traced_once(graph, file)
    how = text_answers(graph)
    rows = {language: how.rows(listed, language) for language, listed in lines.items()}
    return (
        graph,
        file,
        Judge(graph, file, how=how, rows=rows, tests=None, watch=lambda *_told: None),
    )


def _searched(judged: tuple[Any, Path, Judge], folder: Path, start: Variant, bound: float) -> Any:
    graph, file, judge = judged
    return search(graph, file, folder / "trials", start, judge, bound=bound, watch=lambda *_told: None)  # fmt: skip


def test_the_float32_graph_loses_nothing_against_itself(judged: tuple[Any, Path, Judge]) -> None:
    _, file, judge = judged
    drops = judge(file)

    assert {drop.place for drop in drops} == {"en", "sw"}
    assert [drop.measure for drop in drops if drop.place == "sw"] == [
        "cosine", "cosine, 1st percentile", "same 10 nearest", "nearest kept among 10",
    ]  # fmt: skip
    assert {drop.n for drop in drops} == {60}
    assert [drop.points for drop in drops] == pytest.approx([0] * 8, abs=1e-9)


def test_a_drop_is_what_numpy_makes_of_the_vectors_of_both_files(
    judged: tuple[Any, Path, Judge], lines: Lines, tmp_path: Path
) -> None:
    graph, file, judge = judged
    small = tmp_path / "model.onnx"
    write_variant(file, small, SEVEN_BITS)
    vectors = []
    for graph_file in (file, small):
        run, given = open_session(graph_file), {}
        # The scale of activations is that of a batch: 32 of the longest lines, then those that are left.
        longest_first = sorted(lines["sw"], key=len, reverse=True)
        for batch in (longest_first[:32], longest_first[32:]):
            encoded = graph.tokenizer(batch, padding=True, truncation=True, max_length=40, return_tensors="np")  # fmt: skip
            given |= dict(zip(batch, run(dict(encoded))["sentence_embedding"], strict=True))
        vectors.append(np.array([given[line] for line in lines["sw"]], dtype=np.float64))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors)
    near = []
    for x in (a, b):
        table = x @ x.T
        np.fill_diagonal(table, -2)
        near.append(np.argsort(-table, axis=1)[:, :10])

    drops = {drop.measure: drop for drop in judge(small) if drop.place == "sw"}

    assert drops["cosine"].points == pytest.approx(100 - 100 * (a * b).sum(axis=1).mean(), abs=1e-4)
    assert drops["cosine"].points > 0.005
    same = [len({*x} & {*y}) / 10 for x, y in zip(*near, strict=True)]
    assert drops["same 10 nearest"].points == pytest.approx(100 - 100 * np.mean(same))
    kept = [x[0] in y for x, y in zip(*near, strict=True)]
    assert drops["nearest kept among 10"].points == pytest.approx(100 - 100 * np.mean(kept))
    assert drops["cosine"].low < drops["cosine"].points < drops["cosine"].high


def test_one_scale_for_a_table_with_outliers_is_refused_and_scales_of_rows_are_found(
    judged: tuple[Any, Path, Judge], tmp_path: Path
) -> None:
    found = _searched(judged, tmp_path, BY_TENSOR, bound=40)

    assert found.variant == SEVEN_BITS
    assert [trial.met for trial in found.tried] == [False, True]
    assert found.tried[0].worst.points > 40
    assert found.trial.worst.points <= 40
    assert found.file.stat().st_size == found.trial.bytes
    assert [file.name for file in (tmp_path / "trials").rglob("*.onnx")] == ["model_quantized.onnx"]


def test_the_layer_with_outliers_keeps_its_precision_and_no_other(
    judged: tuple[Any, Path, Judge], tmp_path: Path
) -> None:
    whole = _searched(judged, tmp_path, SEVEN_BITS, bound=100)

    found = _searched(judged, tmp_path, SEVEN_BITS, bound=whole.trial.worst.points / 4)

    assert found.variant.float_layers == ("layer 1 feed-forward",)
    assert found.variant.embeddings == "int8"
    assert found.tried[0].drops == whole.trial.drops
    assert found.trial.bytes == min(trial.bytes for trial in found.tried if trial.met)


def test_a_bound_that_nothing_meets_is_refused_with_what_was_tried(
    judged: tuple[Any, Path, Judge], tmp_path: Path
) -> None:
    with pytest.raises(BoundError, match=r"no eight-bit file stays within 0 points of float32: the nearest, embeddings float16.*, loses .* in (en|sw) \(cosine, n = 60\); raise --bound") as refused:  # fmt: skip
        _searched(judged, tmp_path, SEVEN_BITS, bound=0)

    assert refused.value.tried[0].variant == SEVEN_BITS.name
    assert len(refused.value.tried) == 2
    assert not list((tmp_path / "trials").rglob("*.onnx"))


def test_layers_that_stay_whole_go_by_one_name() -> None:
    groups = ("layer 0", "layer 0 attention", "layer 0 feed-forward", "layer 10", "layer 10 attention", "layer 10 feed-forward", "head")  # fmt: skip
    changes = Changes(Variant(float_layers=("head",)), groups)

    assert "layer 0" not in changes.all
    assert "head" not in changes.all
    made = changes.made(["layer 10 attention", "layer 0 feed-forward", "layer 10 feed-forward"])
    assert made.float_layers == ("head", "layer 0 feed-forward", "layer 10")
    assert made.embeddings == "int8"
    assert changes.made(changes.all) == replace(made, float_layers=("head", "layer 0", "layer 10"), embeddings="float16")  # fmt: skip


@pytest.fixture(scope="module")
def default_by_tensor() -> Any:
    """A target whose own variant has one scale for a tensor, as onnxruntime has unless told otherwise."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TARGETS, "arm", replace(TARGETS["arm"], variant=BY_TENSOR))
        yield


def _ran(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.usefixtures("traced_once")
def test_the_command_says_what_was_refused_and_writes_what_holds(
    with_outliers: Path, text_files: dict[str, Path], tmp_path: Path, default_by_tensor: None
) -> None:
    texts = [part for language, file in text_files.items() for part in ("--text", f"{language}={file}")]  # fmt: skip
    done = _ran(with_outliers, "-o", tmp_path / "out", "--for", "arm", "--bound", 40, *texts)

    assert done.exit_code == 0, done.output
    assert f"{BY_TENSOR.name}, the default for arm, was refused: it loses" in done.stdout
    assert f"more than the bound of 40. Written instead: {SEVEN_BITS.name}." in done.stdout
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["target"] == "arm"
    assert about["variant"] == SEVEN_BITS.name
    assert [trial["met"] for trial in about["tried"]] == [False, True]
    assert about["drops"] == about["tried"][1]["drops"]
    assert about["bytes"][INT8] == (tmp_path / "out" / INT8).stat().st_size
    card = (tmp_path / "out/README.md").read_text()
    assert SEVEN_BITS.name in card
    assert "| sw | cosine | 60 |" in card
    assert {file.name for file in (tmp_path / "out/onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}  # fmt: skip


@pytest.mark.usefixtures("traced_once")
def test_the_command_refuses_a_bound_that_nothing_meets_with_the_table(
    sentence_encoder: Path, text_files: dict[str, Path], tmp_path: Path
) -> None:
    done = _ran(sentence_encoder, "-o", tmp_path / "out", "--text", f"sw={text_files['sw']}", "--bound", 0)  # fmt: skip

    assert done.exit_code == 2, done.output
    assert "no eight-bit file stays within 0 points of float32" in done.stderr
    assert "Traceback" not in done.output
    for variant in (TARGETS["cpu"].variant.name, "embeddings float16"):
        assert variant in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("traced_once")
def test_without_text_and_test_sets_the_command_says_that_nothing_was_judged(
    sentence_encoder: Path, tmp_path: Path
) -> None:
    done = _ran(sentence_encoder, "-o", tmp_path / "out")

    assert done.exit_code == 0, done.output
    said = "was not judged: give --text LANGUAGE=FILE or --data FOLDER"
    assert said in done.stdout
    assert said in (tmp_path / "out/README.md").read_text()
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert (about["drops"], about["tried"]) == ([], [])
    assert about["variant"] == TARGETS["cpu"].variant.name


@pytest.mark.usefixtures("traced_once")
def test_an_export_that_is_stopped_leaves_nothing(
    sentence_encoder: Path, text_files: dict[str, Path], tmp_path: Path
) -> None:
    def stop(_done: int, _total: int, what: str) -> None:
        if what.startswith("tried"):
            assert (next(tmp_path.iterdir()) / FLOAT).is_file()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(sentence_encoder, tmp_path / "out", texts={"sw": text_files["sw"]}, watch=stop)

    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_texts_is_said(tokenizer: Any, lines: Lines) -> None:
    cyrillic = ["привет мир и снова"] * 30
    assert warnings_of({"sw": cyrillic, "en": lines["en"]}, tokenizer, 2) == [
        "sw: 100% of the letters are Cyrillic, where Latin is expected; is the text in that language?",
        "sw: the vocabulary has no piece for 120 tokens in 120 words; is the model made for that language and script?",
        "sw: of 30 lines a single one is 3.3 points, more than the bound of 2; give 50 lines, so that one does not decide.",
    ]


def test_bad_input_is_refused_before_anything_is_opened(
    text_files: dict[str, Path], tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("one line\n" * 30, encoding="utf-8")
    for arguments, said in (
        (["--text", f"en={short}"], "en: its text has 1 different line, and 20 are the least to judge by"),
        (["--text", "en"], "--text must be LANGUAGE=FILE, a folder or hub:NAME, got 'en'"),
        (["--text", "en=nothing.txt"], "nothing.txt"),
        (["--for", "gpu"], "--for must be one of cpu, cpu-vnni, arm"),
        (["--bound", "-1"], "--bound must be a number of points from 0 on, got -1.0"),
        (["-o", short / "out"], "nothing can be written into"),
        (["--bound", "nan"], "--bound must be a number of points from 0 on, got nan"),
        (["--bound", "1"], "--bound is kept on lines of --text or test sets of --data; give one of them, or leave it out."),
        (["--languages", "en"], "--languages chooses among the test sets of --data; give that, or leave it out."),
    ):  # fmt: skip
        done = _ran(tmp_path / "no-model", "-o", tmp_path / "out", *arguments)
        assert done.exit_code == 2, done.output
        assert said in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["short.txt"]
    with pytest.raises(ExportError, match="--for must be one of cpu"):
        export(tmp_path / "no-model", tmp_path / "out", target="gpu")
