"""A model for production: an ONNX graph in float32, and a smaller one in eight bits whose loss was measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bistil.errors import ExportError
from bistil.export.eight_bits.openvino_ir import FLOAT as IR_FLOAT
from bistil.export.eight_bits.openvino_ir import INT8 as IR_INT8
from bistil.export.eight_bits.openvino_ir import (
    UNCALIBRATED,
    OpenVinoVariant,
    OpenVinoWriter,
    require_openvino,
    write_ir,
)
from bistil.export.eight_bits.targets import TARGETS, Target
from bistil.export.eight_bits.variants import write_variant
from bistil.export.folder.folder import FLOAT, INT8, write_folder
from bistil.export.graph.compare import compare, largest_difference
from bistil.export.graph.float32 import require_libraries, write_float
from bistil.export.graph.graph import open_graph
from bistil.export.graph.large_files import files_of
from bistil.export.judge.calibration import calibration_batches, calibration_lines
from bistil.export.judge.drop import Drop, Judge, read_texts, warnings_of
from bistil.export.judge.scores import TestSets, prompt_for
from bistil.export.judge.search import Trial, WriteVariant, bytes_of, search
from bistil.export.judge.text_answers import gives_vectors, text_answers
from teacherzoo.atomic_write import written_whole
from teacherzoo.cache import refuse_what_exists
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge.language_texts import Corpora
from xeval.data.source import Source

BOUND = 0.5
"""Points of 100 that eight bits may cost."""

NOT_JUDGED = "What eight bits lose was not judged: give --text LANGUAGE=FILE or --data FOLDER, and it is measured and kept within --bound."


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        folder: with `onnx/model.onnx`, `onnx/model_quantized.onnx` (of OpenVINO `openvino/openvino_model.xml`,
            `openvino/openvino_model_qint8_quantized.xml`), tokenizer, configuration, `export.json` and README.
        inputs: names of the graph's inputs.
        outputs: names of its outputs, and what the axes of each are.
        labels: of an axis of that name.
        opset: of the graph.
        float32_difference: largest absolute difference of an output from torch's.
        int8_difference: the same of the graph in eight bits.
        bytes: of each graph, with the file of its weights where it is too large to hold them.
        target: the processors that the smaller graph is for.
        variant: what of it is in eight bits.
        bound: points that it may lose.
        drops: what it loses; empty where there was nothing to judge it by.
        tried: the variants that were judged, in that order; the first is the target's own.
        verdict: in words: what it loses at most, whether the target's own variant was refused, or that nothing was judged.
        warnings: what was assumed of the model, and what looks wrong about the texts.
    """

    folder: str
    inputs: tuple[str, ...]
    outputs: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    opset: int
    float32_difference: float
    int8_difference: float
    bytes: dict[str, int]
    target: str
    variant: str
    bound: float
    drops: tuple[Drop, ...]
    tried: tuple[Trial, ...]
    verdict: str
    warnings: tuple[str, ...]


def export(
    model: str | Path,
    out: Path,
    *,
    target: str = "cpu",
    texts: Corpora | None = None,
    source: Source | None = None,
    languages: Sequence[str] = ("all",),
    bound: float = BOUND,
    prompts: Sequence[str] = (),
    watch: ProgressCallback = no_progress,
) -> Exported:
    """Write a model as ONNX, and once more in eight bits that lose no more than a bound on your own text and test sets.

    A weight W becomes whole numbers round(W / s) from -127 to 127 with a scale s for each of its columns, once, and a row of an
    embedding likewise; activations become eight bits as they come (onnxruntime's dynamic quantisation; the scheme of Jacob et
    al. 2018, section 2.1). What that costs is asked for: on lines of text (`texts`) the answers of the small graph are compared
    with those of the float32 graph, and on test sets (`source`) both are scored by xeval's decoding and metrics; a drop is in
    points of 100, paired, and the worst one counts. Of vectors the cosine counts, and whether a line's nearest neighbour stays
    among its ten nearest; of labels, spans, pieces at masked places and orders of passages how many stay as they are. Where
    the target's own variant loses more than the bound, the parts of the graph that cost most keep their precision, as few as
    will do (`bistil.export.judge.search`).

    Both graphs take `input_ids`, `attention_mask` and, where model and tokenizer tell first texts from second,
    `token_type_ids`, all [batch, tokens], of any size up to the model's limit; a parser's also `word_start` and `word_size`
    [sentences, words], as xeval's heads do: where in all rows, one behind the other, a word's sub-words begin, and how many
    they are. The float32 graph is refused where an output differs from torch's by more than 1e-4.

    Args:
        model: a model folder, or one that `xeval tune` or `adapt` wrote, for any task.
        out: the folder to write; it must not exist.
        target: the processors it is for, a key of `bistil.export.eight_bits.targets.TARGETS`.
        texts: per language files, folders or `hub:NAME[:CONFIG[:SPLIT]]`, of which up to 300 lines are judged on. Rerankers
            read lines `query TAB passage`, question answering `question TAB passage`.
        source: where test sets lie: those of a tuned model's task, or those that a model of this kind answers as it is.
        languages: of the test sets, or ("all",).
        bound: points that eight bits may cost at most.
        prompts: put in front of texts and queries, the last of documents; none for those of the folder.
        watch: told (done, total, what).

    Returns:
        What was written, what it loses, and what was tried.

    Raises:
        BoundError: where no variant meets the bound; nothing is written then.
        ExportError: for a missing library, a folder in the way, a head of another kind, or outputs that differ.
        XevalError: for test sets that cannot be read.
        VocabularyError: for text that cannot be read.

    Example:
        >>> exported = export("tuned", Path("served"), texts={"sw": "news.sw.txt"})  # doctest: +SKIP
        >>> exported.bytes["onnx/model_quantized.onnx"], exported.variant  # doctest: +SKIP
        (31457280, 'int8')
    """
    out = Path(out)
    chosen = _target(target)
    openvino = isinstance(chosen.variant, OpenVinoVariant)
    require_libraries()
    if openvino:
        require_openvino()
        if not texts:
            raise ExportError(UNCALIBRATED)
    if not bound >= 0:
        raise ExportError(f"--bound must be a number of points from 0 on, got {bound!r}.")
    refuse_what_exists(out, ExportError)
    _require_place(out)
    lines = read_texts(texts) if texts else {}
    lines, calibration = calibration_lines(lines) if openvino else (lines, {})
    watch(0, 1, "opening the model")
    graph = open_graph(str(model))
    if prompts and not (gives_vectors(graph) and (lines or source)):
        raise ExportError(
            "--prompt is put in front of texts that a sentence encoder is judged on, and there are none; leave it out."
        )
    if graph.leaves_prompt_out and (unknown := [p for p in prompts if p and p not in graph.prompts.values()]):  # fmt: skip
        raise ExportError(
            f"--prompt {unknown[0]!r}: the model leaves prompts out of its vectors, and a graph knows only those that "
            f"{graph.folder / 'config_sentence_transformers.json'} names; name it there, or leave it out."
        )
    asked_for_texts = lines or (
        source and not graph.about["task"]
    )  # xeval pads the rows of its own tasks
    if asked_for_texts and graph.tokenizer.pad_token is None:
        raise ExportError(
            f"{graph.folder}: its tokenizer names no padding token, and texts are judged in batches; name one of its pieces as "
            '"pad_token" in tokenizer_config.json, or leave --text and --data out.'
        )
    how = text_answers(graph, prompt_for("text", graph, prompts)) if lines else None
    rows = (
        {language: how.rows(listed, language) for language, listed in lines.items()} if how else {}
    )
    tests = None if source is None else TestSets(graph, source=source, languages=languages, prompts=prompts)  # fmt: skip
    warnings = [*graph.assumed, *warnings_of(lines, graph.tokenizer, bound)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as folder:
        (folder / FLOAT).parent.mkdir(parents=True)
        watch(0, 1, "exporting the graph")
        opset = write_float(graph, folder / FLOAT)
        watch(0, 1, "comparing the graph with torch")
        difference = compare(graph, folder / FLOAT)
        write: WriteVariant = write_variant
        float32, small = (IR_FLOAT, IR_INT8) if openvino else (FLOAT, INT8)
        if openvino:
            assert how is not None
            watch(0, 1, "converting the graph for OpenVINO")
            (folder / IR_FLOAT).parent.mkdir()
            write_ir(folder / FLOAT, folder / IR_FLOAT)
            difference = compare(graph, folder / IR_FLOAT)
            batches = calibration_batches(graph, folder / FLOAT, how, calibration, watch)
            write = OpenVinoWriter(calibration=batches)
        trials = folder / "trials"
        if lines or tests:
            watch(0, 1, "asking the float32 graph")
            judge = Judge(graph, folder / FLOAT, how=how, rows=rows, tests=tests, watch=watch)
            searched = search(graph, folder / FLOAT, trials, chosen.variant, judge, bound=bound, watch=watch, write=write, name=Path(small).name, then=chosen.then)  # fmt: skip
            variant, file, drops, tried = (
                searched.variant,
                searched.file,
                searched.trial.drops,
                searched.tried,
            )
        else:
            watch(0, 1, "quantising the graph")
            variant, file, drops, tried = chosen.variant, trials / Path(INT8).name, (), ()
            trials.mkdir()
            write_variant(folder / FLOAT, file, variant)
        for part in files_of(file):
            part.replace((folder / small).parent / part.name)
        shutil.rmtree(trials)
        if openvino:
            shutil.rmtree((folder / FLOAT).parent)
        watch(0, 1, "comparing the quantised graph with torch")
        exported = Exported(
            folder=str(out),
            inputs=graph.inputs,
            outputs=dict(graph.outputs),
            labels=graph.labels,
            opset=opset,
            float32_difference=difference,
            int8_difference=largest_difference(graph, folder / small),
            bytes={name: bytes_of(folder / name) for name in (float32, small)},
            target=target,
            variant=variant.name,
            bound=bound,
            drops=drops,
            tried=tried,
            verdict=_verdict(target, tried, variant.name, bound),
            warnings=tuple(warnings),
        )
        session = "openvino_session" if openvino else "onnx_session"
        write_folder(graph, folder, _facts(exported, str(model)), session=session)
    watch(1, 1, "exported")
    return exported


def _require_place(out: Path) -> None:
    """Refuse a folder that cannot be made, before anything slow begins."""
    nearest = next(place for place in out.absolute().parents if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ExportError(f"{out}: nothing can be written into {nearest}; choose another folder.")


def _target(name: str) -> Target:
    if name not in TARGETS:
        raise ExportError(f"--for must be one of {', '.join(TARGETS)}, got {name!r}.")
    return TARGETS[name]


def _verdict(target: str, tried: Sequence[Trial], variant: str, bound: float) -> str:
    if not tried:
        return NOT_JUDGED
    worst = tried[0].worst
    loses = f"loses {worst.points:.2g} points in {worst.place} ({worst.measure}, n = {worst.n:,})"
    if tried[0].met:
        return f"{variant}: it {loses}, and nowhere more, within the bound of {bound:g}."
    return (
        f"{tried[0].variant}, the default for {target}, was refused: it {loses}, more than the bound of {bound:g}. Written "
        f"instead: {variant}."
    )


def _facts(exported: Exported, model: str) -> dict[str, Any]:
    runtime = ("openvino", "nncf") if exported.target == "openvino" else ()
    libraries = ("bistil", "onnx", "onnxruntime", *runtime, "torch")
    return {
        **asdict(exported),
        "model": model,
        "versions": {name: version(name) for name in libraries},
    }
