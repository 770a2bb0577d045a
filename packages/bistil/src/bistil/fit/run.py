"""From a model and a budget to a student: what each part is worth, what shapes cost, trials by successive halving, and the chosen one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bistil.counted import counted
from bistil.encoders.answers import assumption, plain_kind
from bistil.errors import FitError
from bistil.fit.choices import MILLISECONDS, choices_of, require_affordable
from bistil.fit.config import Budget, Fitting
from bistil.fit.judge import Judge, TaskJudge, TextJudge, require_ranked
from bistil.fit.latency import LatencyModel, fit_latency, measure_latency, shapes_to_measure
from bistil.fit.page import card_part, page
from bistil.fit.parts import measure_parts
from bistil.fit.picture import front_picture, words
from bistil.fit.search import Candidate, candidates_of, finalists, pareto_front, thinned
from bistil.fit.trials import Trial, Trials
from bistil.make.plan import kind_of, require_rows
from bistil.make.texts import (
    SplitText,
    require_one_form,
    sources_of,
    split_text,
)
from bistil.student.shape import Shape, ShapeSizes
from bistil.text.languages import digests_of_sources
from teacherzoo.cache import (
    DIGESTS,
    MADE,
    digest_of_values,
    made_once,
    refuse_what_exists,
    work_dir,
)
from teacherzoo.digests import digest_of_inputs, keep_digests
from teacherzoo.encoders.kinds import model_layout
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge import Kind, Layout, read_layout, trim
from vocabmerge.hub.fetch import model_folder
from vocabmerge.hub.push import bare_names
from xeval.cost.measure import device_name
from xeval.statistics.metrics import value_of_rows

PAGE, RECORD, PICTURE, STUDENT, EXPORTED = "report.html", "fit.json", "front.svg", "student", "exported"  # fmt: skip
_CARD = "README.md"
_TRAINED, _UNTRAINED = "trained", "untrained"
_LEAST_LINES = 20
_VERSIONS = ("bistil", "teacherzoo", "vocabmerge", "torch", "transformers")


def fit(
    model: str | Path,
    texts: Mapping[str, Sequence[str]],
    out: str | Path,
    *,
    budget: Budget,
    task: str | None = None,
    data: str | None = None,
    fitting: Fitting | None = None,
    plan: bool = False,
    cache_dir: Path | None = None,
    revision: str | None = None,
    tell: Callable[[Mapping[str, Any]], None] = lambda record: None,
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """This model, in these languages, within this budget: find the shape, and make it.

    1. Each part is cut alone (each layer, sets of layers, hidden width with narrower heads and with fewer, feed-forward units, pieces
       of the vocabulary), nothing is trained, and what is left of the model's answers on text kept out, or of its score on a task,
       is measured. A width goes on with the heads that leave more.
    2. Shapes are put together of all choices. Parameters and bytes are counted, milliseconds fitted to measured ones; a shape's
       worth is predicted as the product of what its cuts leave.
    3. The best few within the budget, all of different depth or width, are trained for some steps and measured, the better half
       for twice as many, until one is left (successive halving: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm
       Identification and Hyperparameter Optimization"; light training before the choice as in Muralidharan et al. 2024, "Compact
       Language Models via Pruning and Knowledge Distillation").
    4. The one that is left is extracted (`bistil.extract`) with all steps; for a budget in bytes it is exported, too.

    Interrupted, it goes on where it was when called again with the same arguments. Same inputs, seed and machine: the same shape, but
    under a budget of time, where measured milliseconds decide.

    Args:
        model: a folder or a Hub name: a sentence encoder, encoder, classifier, reranker, token classifier or masked LM.
        texts: per language, the source first, files, folders of text, or data sets `hub:NAME[:CONFIG[:SPLIT]]`.
        out: the folder to write; it must not exist. In it come `student`, a folder of the model's own layout, `fit.json`,
            `report.html`, `front.svg` and, for a budget in bytes, `exported`.
        budget: that the student must keep.
        task: of xeval, by whose development sets shapes are judged in place of text; one that asks a model as it is, or one with a
            probe of that name (`pos` for `pos_probe`).
        data: where the task's data lies: a folder as xeval reads it, or `hub:NAME`.
        fitting: everything else.
        plan: stop before anything is trained; what was measured stays for the run itself, and `out` is not written.
        cache_dir: a folder in which all that was measured stays, for other budgets of the same model and text.
        revision: of a model on the Hub.
        tell: given the record, with the front, before training starts.
        watch: told (done, total, what).

    Returns:
        What stands in `fit.json`.

    Raises:
        FitError: for a budget below the smallest shape, a task that cannot judge, a folder in the way.
        BistilError, TeacherzooError, VocabularyError, XevalError: for what cannot be read or made; they say why.

    Example:
        >>> asked = Fitting(candidates=2, trial_steps=1, steps=2, batch=2, length=16, lines=300, judged_lines=20)
        >>> record = fit("teacher", {"en": ["en.txt"], "sw": ["sw.txt"]}, "small", budget=Budget(size=30_000), fitting=asked)
        >>> record["student"]["parameters"] <= 30_000
        True
    """
    started, out, fitting = time.monotonic(), Path(out), fitting or Fitting()
    refuse_what_exists(out, FitError)
    if (task is None) != (data is None):
        raise FitError("A task and its data go together; give both, or neither.")
    languages = list(texts)
    sources = sources_of(languages, texts)
    whole = model_folder(model, revision=revision)
    layout = read_layout(whole)
    kind = kind_of(layout)
    if budget.bytes is not None:
        from bistil.export.graph.float32 import require_libraries

        require_libraries()
    if fitting.prompts and kind is not Kind.SENTENCE:
        raise FitError("prompts stand before the lines of a sentence encoder, and this is none; leave them out.")  # fmt: skip
    # What no text would change is refused before any is read.
    require_ranked(layout, fitting.by, task=task)
    fitting.extraction(feed_forward=1, units=fitting.units)
    encoder = model_layout(whole)
    sizes = ShapeSizes(encoder)
    choices_of(sizes, encoder, fitting, needed=sizes.shape.pieces, always=0)
    require_rows(layout, fitting.length)
    require_one_form(sources, layout)
    prompt = fitting.prompts[0] if fitting.prompts else None
    task_judge = (
        TaskJudge(whole, task, data, languages, prompts=fitting.prompts) if task and data else None
    )
    keep_digests((cache_dir or work_dir(out)) / DIGESTS)
    given = {
        "model": digest_of_inputs(models={"model": whole}),
        "texts": digests_of_sources(sources),
        "lines": fitting.lines,
        "judged_lines": fitting.judged_lines,
    }
    inputs = {**given, "fitting": fitting.to_json(), "budget": asdict(budget), "task": task_judge and dict(task_judge.inputs)}  # fmt: skip

    def write(work: Path) -> None:
        cache = cache_dir or work
        text = {
            language: split_text(
                language, listed, cache, lines=fitting.lines, judged=fitting.judged_lines, columns=kind is Kind.CLASSIFIER, watch=watch
            )
            for language, listed in sources.items()
        }  # fmt: skip
        judged = {language: part.judged_lines() for language, part in text.items()}
        if budget.bytes is not None:
            _require_lines(judged)
        judge = task_judge or TextJudge(
            layout, judged, prompt=prompt, by=fitting.by, seed=fitting.seed
        )
        search = _Search(model, encoder, sizes, kind, text, budget, fitting, judge, given, cache, watch)  # fmt: skip
        record = {"model": bare_names(model), "languages": languages, **search.front()}
        tell(record)
        if plan:
            raise _PlannedOnly(record)
        record |= search.tried(record)
        student = _finish(record, search, text, work)
        record["seconds"] = round(time.monotonic() - started, 1)
        _collect(record, student, work)

    try:
        made_once(out, inputs, write, refuse=FitError, exclusive=[_TRAINED, _UNTRAINED, EXPORTED])
    except _PlannedOnly as planned:
        return planned.record
    return dict(json.loads((out / RECORD).read_text(encoding="utf-8")))


def _require_lines(judged: Mapping[str, Sequence[str]]) -> None:
    """What eight bits lose is judged on the lines kept out."""
    for language, lines in judged.items():
        if len(lines) < _LEAST_LINES:
            raise FitError(
                f"{language}: {counted(len(lines), 'line')} kept out of training, where {_LEAST_LINES} are the least by which a graph in eight bits is judged; "
                "give more text, or keep more lines out."
            )


class _PlannedOnly(Exception):  # noqa: N818 -- it stops a run, and is no error
    """The front is there, and no more is wanted."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__()
        self.record = record


class _Search:
    """One search: its parts are measured when they are asked for."""

    def __init__(
        self,
        model: str | Path,
        layout: Layout,
        sizes: ShapeSizes,
        kind: Kind,
        text: Mapping[str, SplitText],
        budget: Budget,
        fitting: Fitting,
        judge: Judge,
        given: Mapping[str, Any],
        cache: Path,
        watch: ProgressCallback,
    ) -> None:
        self._given, self._cache = given, cache
        self._times: dict[Shape, float] = {}
        self._layout, self.sizes = layout, sizes
        self.kind, self.budget, self.fitting, self.judge, self.watch = kind, budget, fitting, judge, watch  # fmt: skip
        self._files = {language: part.training for language, part in text.items()}
        lean = self._lean_folder(layout.folder)
        lean_layout = model_layout(lean)
        self._lean = ShapeSizes(lean_layout)
        self.trials = Trials(
            model, kind, self.sizes.shape, lean, self._lean.shape.pieces, self._files, fitting=fitting, judge=judge, inputs=given, cache=cache
        )  # fmt: skip
        pieces = json.loads((lean / "report.json").read_text(encoding="utf-8"))["pieces"]
        self.choices = choices_of(self.sizes, self._layout, fitting, needed=pieces["after"], always=pieces["always"])  # fmt: skip
        self._length = _usual_length(lean_layout, [line for part in text.values() for line in part.judged_lines()], fitting)  # fmt: skip

    def front(self) -> dict[str, Any]:
        """What the budget allows, as far as it is known before training."""
        if self.budget.latency is None:
            self._require_affordable(0.0)
        latency, measured = self._latency()
        self._require_affordable(latency.predicted(self.choices.least))
        parts = measure_parts(self.sizes, self._layout, self.choices, self.fitting, self.trials, self.watch)  # fmt: skip
        self.candidates = candidates_of(self.sizes, self.choices, parts, latency)
        affordable = [c for c in self.candidates if getattr(c, self.budget.measure) <= self.budget.limit]  # fmt: skip
        front = thinned(pareto_front(self.candidates, self.budget.measure), self.budget)
        return {
            "kind": plain_kind(self._layout),
            "assumed": assumption(self._layout),
            "budget": {"measure": self.budget.measure, "limit": self.budget.limit, "words": str(self.budget)},
            "fitting": self.fitting.to_json(),
            "measure": self.judge.measure,
            "by": self.judge.by,
            "parts": parts.to_json(),
            "one_width": self.choices.why_one_width,
            "latency": {**latency.to_json(), "measured": measured},
            "machine": device_name("cpu"),
            "searched": len(self.candidates),
            "affordable": len(affordable),
            "front": [candidate.to_json() for candidate in front],
            "trials": [],
            "versions": {name: version(name) for name in _VERSIONS},
        }  # fmt: skip

    def tried(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Successive halving among the best, and what it chose."""
        alive = finalists(self.candidates, self.budget, self.fitting.candidates, measured=self.latencies)  # fmt: skip
        if not alive:
            raise FitError(
                f"No shape was measured to be within {self.budget}; allow more, or measure again on a quieter machine."
            )
        times = dict(zip((c.shape for c in alive), self.latencies([c.shape for c in alive]), strict=True))  # fmt: skip
        untrained = {c.shape: self._try(c, 0, "untrained").ranked for c in alive}
        trials: list[dict[str, Any]] = []
        agreement = None
        for number, (count, steps) in enumerate(self.fitting.rounds()):
            alive = alive[:count]
            tried = [
                self._try(c, steps, f"round {number + 1}, {counted(len(alive), 'shape')}")
                for c in alive
            ]
            trials += [
                {
                    **candidate.to_json(), "latency_ms": times[candidate.shape], "untrained": untrained[candidate.shape], "steps": steps,
                    "learning_rate": trial.learning_rate, "ranked": trial.ranked, "worth": trial.worth.to_json(),
                }
                for candidate, trial in zip(alive, tried, strict=True)
            ]  # fmt: skip
            if number == 0 and len(alive) > 2:
                ranked = np.array(
                    [[c.predicted, t.ranked] for c, t in zip(alive, tried, strict=True)]
                )
                agreement = float(value_of_rows("cosine_spearman", ranked)) / 100
            order = sorted(range(len(alive)), key=lambda n: (-tried[n].ranked, n))
            worths = [(alive[n], tried[n].ranked) for n in order]
            alive = [alive[n] for n in order]
        best, worth = worths[0]
        others = "; ".join(f"{words(asdict(c.shape))} {left:.1f}" for c, left in worths[1:])
        why = f"{words(asdict(best.shape)).capitalize()} ({', '.join(map(str, best.shape.layers))}) was worth most in the last round, {worth:.1f}"
        why += f" (the others: {others})." if others else "."
        return {"trials": trials, "agreement": agreement, "chosen": {"shape": asdict(best.shape), "why": why}}  # fmt: skip

    def _try(self, candidate: Candidate, steps: int, prefix: str) -> Trial:
        def told(done: int, total: int, what: str) -> None:
            self.watch(done, total, f"{prefix}: {what}")

        return self.trials.trial(candidate.shape, steps, watch=told)

    def latencies(self, shapes: Sequence[Shape]) -> list[float]:
        """Milliseconds, measured once and kept; the number of pieces takes no time."""
        timeless = [replace(shape, pieces=self._lean.shape.pieces) for shape in shapes]
        missing = [shape for shape in dict.fromkeys(timeless) if shape not in self._times]
        if missing:
            self._times |= dict(zip(missing, self._measured(missing), strict=True))
        return [self._times[shape] for shape in timeless]

    def _measured(self, shapes: Sequence[Shape]) -> list[float]:
        inputs = {**self._given, "shapes": [asdict(shape) for shape in shapes], "length": self._length, "machine": device_name("cpu")}  # fmt: skip

        def make(work: Path) -> None:
            timed = measure_latency(self._lean, shapes, length=self._length, watch=self.watch)
            (work / MADE).mkdir()
            (work / MADE / "latency.json").write_text(json.dumps(timed), encoding="utf-8")

        place = self._cache / "latency" / digest_of_values(inputs)[:16]
        place.parent.mkdir(parents=True, exist_ok=True)
        made = made_once(place, inputs, make)
        return list(json.loads((made / "latency.json").read_text(encoding="utf-8")))

    def _latency(self) -> tuple[LatencyModel, list[dict[str, Any]]]:
        shapes = shapes_to_measure(self.choices.most, self.choices.least)
        times = self.latencies(shapes)
        measured = [{"shape": asdict(shape), "ms": ms} for shape, ms in zip(shapes, times, strict=True)]  # fmt: skip
        return fit_latency(shapes, times, length=self._length), measured

    def _require_affordable(self, latency: float) -> None:
        least = self.choices.least
        cost, unit = {
            "parameters": (float(self.sizes.total(least)), "parameters"),
            "bytes": (float(self.sizes.eight_bit_bytes(least)), "bytes"),
            "latency_ms": (latency, MILLISECONDS),
        }[self.budget.measure]
        require_affordable(self.sizes, self.choices, cost=cost, limit=self.budget.limit, unit=unit)

    def _lean_folder(self, whole: Path) -> Path:
        """The model with the pieces that the text needs, none of them rare enough to go."""
        files = {language: [file] for language, file in self._files.items()}
        inputs = {**self._given, "prompts": self.fitting.prompts}

        def make(work: Path) -> None:
            trim(
                whole, files, work / MADE, lines=None, prompts=self.fitting.prompts,
                watch=lambda done, total, what: self.watch(done, total or 0, what),
            )  # fmt: skip

        place = self._cache / f"lean-{digest_of_values(inputs)[:16]}"
        return made_once(place, inputs, make, watch=self.watch)


def _finish(
    record: dict[str, Any], search: _Search, text: Mapping[str, SplitText], work: Path
) -> Path:
    """Make the chosen one with all steps, or with none where they make it worse, and measure it.

    Each has a folder of its own, so that a run that goes on judges what this one judged.

    Returns:
        The folder of the one that is kept.
    """
    stated = record["chosen"]["shape"]
    shape = Shape(**{**stated, "layers": tuple(stated["layers"])})
    steps, untrained = search.fitting.steps, search.trials.trial(shape, 0).worth
    student = work / _TRAINED / STUDENT
    search.trials.make(shape, steps, student, watch=search.watch)
    worth, by = search.judge.worth(student), search.judge.by
    trained = worth.ranked(by)
    if trained < untrained.ranked(by):
        steps, worth = 0, untrained
        student = work / _UNTRAINED / STUDENT
        search.trials.make(shape, 0, student, watch=search.watch)
    run = json.loads((student / "run.json").read_text(encoding="utf-8"))
    made = replace(shape, pieces=run["plan"]["pieces"][1])
    sizes, whole = search.sizes, search.sizes.shape
    times = search.latencies([whole, made])
    record["whole"] = {"parameters": sizes.total(whole), "bytes": sizes.eight_bit_bytes(whole), "float_bytes": sizes.float_bytes(whole), "latency_ms": times[0]}  # fmt: skip
    record["student"] = {
        "parameters": sizes.total(made),
        "bytes": sizes.eight_bit_bytes(made),
        "float_bytes": sizes.float_bytes(made),
        "latency_ms": times[1],
        "steps": steps,
        "ranked": worth.ranked(by),
        "worth": worth.to_json(),
        "trained": trained,
        "untrained": untrained.ranked(by),
    }
    record["exported"] = None
    if search.budget.bytes is not None:
        record["exported"] = _export(student, work, text, search)
        record["student"]["bytes"] = record["exported"]["bytes"]
    return student


def _export(student: Path, work: Path, text: Mapping[str, SplitText], search: _Search) -> dict[str, Any]:  # fmt: skip
    """In eight bits as the budget counts it; what that loses is measured on the lines kept out, and no part goes back to float."""
    from bistil.export.run import export

    shutil.rmtree(work / EXPORTED, ignore_errors=True)
    judged = {language: [part.judged] for language, part in text.items()}
    exported = export(
        student, work / EXPORTED, texts=judged, bound=100, watch=search.watch,
        prompts=search.fitting.prompts if search.kind is Kind.SENTENCE else (),
    )  # fmt: skip
    drops = [asdict(drop) for drop in exported.drops]
    return {"bytes": exported.bytes["onnx/model_quantized.onnx"], "variant": exported.variant, "drops": drops}  # fmt: skip


def _collect(record: Mapping[str, Any], student: Path, work: Path) -> None:
    """What the user gets; until then everything stays where an interrupted run finds it again."""
    made = work / MADE
    made.mkdir()
    (made / PICTURE).write_text(front_picture(record), encoding="utf-8")
    (made / PAGE).write_text(page(record), encoding="utf-8")
    (made / RECORD).write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    card = (student / _CARD).read_text(encoding="utf-8")
    (made / _CARD).write_text(card.rstrip() + "\n" + card_part(record), encoding="utf-8")
    # Nothing from here on can fail for want of room, and what took longest goes last.
    for folder in (work / EXPORTED, student):
        if folder.is_dir():
            shutil.move(folder, made)
    (made / _CARD).replace(made / STUDENT / _CARD)


def _usual_length(layout: Layout, lines: Sequence[str], fitting: Fitting) -> int:
    """The median of a line's pieces, special ones and a prompt included, at most a row of training."""
    from teacherzoo.encoders.teachers import read_tokenizer

    tokenizer = read_tokenizer(layout.folder / layout.tokenizer, str(layout.folder), needs_mask=False)  # fmt: skip
    before = fitting.prompts[0] if fitting.prompts else ""
    counts = [len(ids) for ids in tokenizer([before + line for line in lines])["input_ids"]]
    return max(4, min(fitting.length, int(np.median(counts))))
