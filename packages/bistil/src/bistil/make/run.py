"""From a model to a small one in some languages: read text, trim, extract, measure, judge, and one page with all of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bistil.errors import MakeError
from bistil.extract.config import CHECKPOINTS, Extraction
from bistil.extract.sentences import check_sentences
from bistil.losses.weights import weights_for
from bistil.make.closeness import closeness
from bistil.make.config import Making
from bistil.make.page import page
from bistil.make.plan import KINDS, MakePlan, kind_of, plan, require_rows
from bistil.make.scores import STUDENT, TRIMMED, WHOLE, scores, test_sets
from bistil.make.texts import (
    SplitText,
    require_one_form,
    sources_of,
    split_text,
)
from bistil.text.languages import digests_of_sources
from teacherzoo.cache import (
    DIGESTS,
    MADE,
    NOTE,
    cleared_if_refused,
    made_once,
    refuse_what_exists,
    work_dir,
)
from teacherzoo.digests import digest_of_inputs, keep_digests
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge import Kind, Layout, read_layout, trim
from vocabmerge.hub.fetch import model_folder
from vocabmerge.hub.push import bare_names
from xeval import cost

PAGE, RECORD, SCORES = "report.html", "make.json", "scores"
_TEXTS = "texts"
_VERSIONS = ("bistil", "teacherzoo", "vocabmerge", "torch", "transformers")
_TURNS, _REPEATS = 3, 7


def make(
    model: str | Path,
    languages: Sequence[str],
    out: str | Path,
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    parallel: Mapping[str, str | Path] | None = None,
    data: str | None = None,
    making: Making | None = None,
    revision: str | None = None,
    tell: Callable[[MakePlan], None] = lambda plan: None,
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Make this model, in these languages, small; and say how good what came out is.

    1. The vocabulary is trimmed to the pieces that cover each language's text (`vocabmerge.trim`).
    2. A student with some of the layers is distilled from the trimmed model (`bistil.extract`), by the terms for its kind.
    3. Model, trim and student answer lines that neither trim nor student was made with, and are measured; with `data`, the
       judge scores all three on its test sets, by paired tests.

    The trim alone is there beside the student, to take where depth is worth more than size. Interrupted, it goes on where it
    was when called again with the same arguments.

    Args:
        model: a folder or a Hub name: a sentence encoder, sparse encoder (SPLADE), encoder, classifier, reranker, token classifier or masked LM.
        languages: the languages, the first being the source of cross-lingual use.
        out: the folder to write; it must not exist. In it come `student` and `trimmed`, both of the model's own layout,
            `report.html`, `make.json` and, with `data`, the judge's results in `scores`.
        texts: per language files, folders of text, or data sets `hub:NAME[:CONFIG[:SPLIT]]`; a language without is read
            from Wikipedia on the Hub. For a reranker or classifier whose first line has a tabulator all lines are `first TAB second`.
        parallel: of a sentence encoder, language to a file of lines `source TAB translation`, from which the student learns to
            give a translation the vector of its source.
        data: test sets for the judge: a folder as xeval reads it, or `hub:NAME`.
        making: everything else.
        revision: of a model on the Hub.
        tell: given the plan before training starts.
        watch: told (done, total, what).

    Returns:
        What stands in `make.json`.

    Raises:
        MakeError: for a kind that cannot be judged, languages, text and sizes that do not fit, a folder in the way.
        BistilError, TeacherzooError, VocabularyError, XevalError: for what cannot be read or made; they say why.

    Example:
        >>> record = make("intfloat/multilingual-e5-small", ["en", "sw"], "small")  # doctest: +SKIP
        >>> record["plan"]["student"]  # doctest: +SKIP
        21000000
    """
    started, out, making = time.monotonic(), Path(out), making or Making()
    refuse_what_exists(out, MakeError)
    sources = sources_of(languages, texts or {})
    digests = digests_of_sources(sources)
    whole = model_folder(model, revision=revision)
    layout = read_layout(whole)
    kind = kind_of(layout)
    translations = {language: Path(file) for language, file in (parallel or {}).items()}
    if translations and kind is not Kind.SENTENCE:
        raise MakeError(
            f"{model}: translations teach sentence encoders, and this is a {KINDS[kind]}; leave parallel out."
        )
    # What no text would change is refused before any is read.
    plan(whole, whole, replace(making, size=None))
    require_rows(layout, making.length)
    extraction = _extraction(kind, translations, making).decided(kind)
    if translations:
        check_sentences(layout, extraction, targets=languages[1:], parallel=translations, vectors=None, sfts={})  # fmt: skip
    require_one_form(sources, layout)
    sets = test_sets(data, layout, languages) if data else {}
    keep_digests(work_dir(out) / DIGESTS)
    inputs = {
        "model": digest_of_inputs(models={"model": whole}),
        "texts": digests,
        "parallel": digest_of_inputs(files=translations),
        "sets": sets,
        "making": making.to_json(),
    }

    def write(work: Path) -> None:
        record = _make(
            model,
            layout,
            _commit(model, whole),
            sources,
            translations,
            work,
            making,
            data,
            sets,
            tell,
            watch,
        )
        record["seconds"] = round(time.monotonic() - started, 1)
        _collect(record, work)

    checkpoints = work_dir(Path(STUDENT)) / CHECKPOINTS
    made_once(out, inputs, write, refuse=MakeError, exclusive=[STUDENT, str(checkpoints), SCORES])
    return _json(out / RECORD)


def _make(
    model: str | Path,
    layout: Layout,
    commit: str | None,
    sources: Mapping[str, Sequence[str]],
    parallel: Mapping[str, Path],
    work: Path,
    making: Making,
    data: str | None,
    sets: Mapping[str, Sequence[str]],
    tell: Callable[[MakePlan], None],
    watch: ProgressCallback,
) -> dict[str, Any]:
    whole = layout.folder
    with cleared_if_refused(work / _TEXTS, work / TRIMMED):
        text = {
            language: split_text(
                language, given, work / _TEXTS, lines=making.lines, judged=making.judged_lines, columns=layout.kind is Kind.CLASSIFIER, watch=watch
            )
            for language, given in sources.items()
        }  # fmt: skip
        _trim(model, whole, commit, text, work / TRIMMED, making, watch)
        planned = plan(whole, work / TRIMMED, making)
    tell(planned)
    # Cards and results call a model by its folder's name.
    link = _link(work / WHOLE, whole)
    teacher = _link(work / "-".join([Path(model).name, *sources]), work / TRIMMED)
    _extract(teacher, text, parallel, work / STUDENT, planned, making, watch)
    models = {TRIMMED: work / TRIMMED, STUDENT: work / STUDENT}
    near = closeness(
        whole,
        models,
        {language: part.judged_lines() for language, part in text.items()},
        prompt=making.prompts[0] if making.prompts else None,
        seed=making.seed,
        watch=watch,
    )
    return {
        "what": "a model made small by bistil",
        "model": bare_names(model),
        "languages": list(sources),
        "sources": bare_names(sources),
        "parallel": {language: file.name for language, file in parallel.items()},
        "making": making.to_json(),
        "plan": planned.to_json(),
        "costs": _costs({WHOLE: link, **models}, making, watch),
        "closeness": [asdict(row) for row in near],
        "scores": scores(work, work / SCORES / "results.jsonl", data, sets, prompts=making.prompts, watch=watch) if data else [],
        "extraction": _json(work / STUDENT / "run.json")["extraction"],
        "trim": _json(work / TRIMMED / "report.json"),
        "versions": {name: version(name) for name in _VERSIONS},
    }  # fmt: skip


def _commit(model: str | Path, whole: Path) -> str | None:
    """Of a model on the Hub, what its snapshot is called by; None for a folder."""
    return None if Path(model) == whole else whole.name


def _trim(
    model: str | Path,
    whole: Path,
    commit: str | None,
    text: Mapping[str, SplitText],
    place: Path,
    making: Making,
    watch: ProgressCallback,
) -> None:
    rule = {"coverage": making.coverage, "multiple": making.multiple, "prompts": making.prompts}
    files = {language: [part.training] for language, part in text.items()}
    inputs = {**rule, **digest_of_inputs(corpora=files, models={"model": whole})}

    def make_trim(work: Path) -> None:
        trim(
            model, files, work / MADE, revision=commit, lines=None, coverage=making.coverage, multiple=making.multiple, prompts=making.prompts,
            watch=lambda done, total, what: watch(done, total or 0, what),
        )  # fmt: skip

    made_once(place, inputs, make_trim, watch=watch)


def _link(place: Path, folder: Path) -> Path:
    place.unlink(missing_ok=True)
    place.symlink_to(folder.resolve(), target_is_directory=True)
    return place


def _extract(
    teacher: Path,
    text: Mapping[str, SplitText],
    parallel: Mapping[str, Path],
    out: Path,
    planned: MakePlan,
    making: Making,
    watch: ProgressCallback,
) -> None:
    from bistil.extract.run import extract

    if out.exists():
        return
    source, *targets = text
    extract(
        teacher,
        {language: part.training for language, part in text.items()},
        out,
        source=source,
        targets=targets,
        parallel=parallel,
        extraction=replace(_extraction(planned.kind, parallel, making), layers=planned.layers),
        watch=watch,
    )


def _extraction(kind: Kind, parallel: Mapping[str, Path], making: Making) -> Extraction:
    """How the student is extracted, but for its layers; what it cannot be is refused before text is read."""
    loss = weights_for(kind)
    return Extraction(
        keep_vocabulary=True, loss=loss.replace(parallel=1) if parallel else loss, prompts=making.prompts, steps=making.steps, batch=making.batch,
        length=making.length, learning_rate=making.learning_rate, precision=making.precision, seed=making.seed,  # type: ignore[arg-type]  # checked there
    )  # fmt: skip


def _costs(
    models: Mapping[str, Path], making: Making, watch: ProgressCallback
) -> dict[str, dict[str, Any]]:
    """What each costs, measured in turns; of a machine that others use, too, the quietest turn counts."""
    costs: dict[str, dict[str, Any]] = {}
    for turn in range(_TURNS):
        watch(turn, _TURNS, "measuring")
        for name, folder in models.items():
            priced = cost(folder, threads=1, length=making.length, repeats=_REPEATS)
            if name not in costs or priced.latency_ms < costs[name]["latency_ms"]:
                costs[name] = priced.columns() | {"vocabulary_parameters": priced.parameters.vocabulary}  # fmt: skip
    return costs


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _collect(record: Mapping[str, Any], work: Path) -> None:
    """What the user gets; until then everything stays where an interrupted run finds it again."""
    (work / MADE).mkdir()
    picture = work / STUDENT / "curves.png"
    document = page(record, picture.read_bytes() if picture.is_file() else None)
    (work / MADE / PAGE).write_text(document, encoding="utf-8")
    (work / MADE / RECORD).write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")  # fmt: skip
    (work / TRIMMED / NOTE).unlink(missing_ok=True)
    # What took longest goes last.
    for name in (TRIMMED, SCORES, STUDENT):
        if (work / name).is_dir():
            shutil.move(work / name, work / MADE)
