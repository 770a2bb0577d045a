"""Result files of mteb, as its versions 1 and 2 wrote them, read without mteb.

Version 2, and version 1 from 1.11 on, write a file per task to results/MODEL/REVISION/TASK.json, beside a model_meta.json:

    {"task_name": …, "dataset_revision": …, "mteb_version": …,
     "scores": {SPLIT: [{"hf_subset": …, "languages": ["eng-Latn", …], "main_score": 0.71, …}, …]}}

Before 1.11 it was {"mteb_dataset_name": …, "dataset_revision": …, "mteb_version": …, SPLIT: {SUBSET: {measure: value}}}, of
tasks without subsets SPLIT: {measure: value}, measures of similarity one level deeper, no languages, and a main score in
classification alone. The main score of other tasks is then the measure that is the main one of their kind.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.errors import XevalError

_UNSTATED = (
    *("", "dataset revision not available", "revision_not_applicable", "no_revision_available"),
    "not_available",
)
_SIMILARITIES = {
    "cos_sim": "cosine", "cosine": "cosine", "manhattan": "manhattan", "euclidean": "euclidean",
    "dot": "dot", "max": "max", "similarity": "similarity",
}  # fmt: skip

# (kind, measures of which one is there, main measures of files without a main score), first match first.
_KINDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("classification", ("scores_per_experiment", "accuracy_stderr"), ("accuracy",)),
    ("retrieval, reranking", ("ndcg_at_10", "map"), ("ndcg_at_10", "map")),
    ("clustering", ("v_measure",), ("v_measure",)),
    ("pair classification", ("max_ap", "cosine_ap"), ("max_ap", "cosine_ap")),
    ("similarity", ("cosine_spearman",), ("cosine_spearman",)),
    ("regression", ("kendalltau",), ("kendalltau",)),
    ("bitext mining", ("f1",), ("f1",)),
)


@dataclass(frozen=True, kw_only=True)
class MtebScore:
    """The main score of one subset of one split.

    Args:
        main_score: 1 being all right; None where the file has no finite number.
        languages: such as "eng-Latn"; empty in files from before mteb 1.11.
        measure: its name, where the file had no main score and the kind of task decided.
        measures: every measure of the subset that is a number.
    """

    main_score: float | None
    languages: tuple[str, ...]
    measure: str | None
    measures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class MtebTask:
    """One task of one model.

    Args:
        name: of the task.
        kind: of task, told by its measures; "other" where they do not.
        revision: of its data; None where the file does not state one.
        version: of mteb, "" where the file does not state one.
        scores: by (split, subset).
    """

    name: str
    kind: str
    revision: str | None
    version: str
    scores: Mapping[tuple[str, str], MtebScore]


@dataclass(frozen=True, kw_only=True)
class MtebResults:
    """The results of one revision of one model.

    Args:
        model: its name, of model_meta.json, else of the folders.
        revision: likewise.
        tasks: by name.
    """

    model: str
    revision: str
    tasks: Mapping[str, MtebTask]


def read_mteb(folder: Path) -> MtebResults:
    """The results of the one model whose files lie in a folder, or in one folder under it.

    What mteb itself does not take for a model's results is left aside: model_meta.json, predictions, and what lies in a folder
    `experiments` (which can be given itself).

    Args:
        folder: such as results/MODEL/REVISION; a folder above it where it holds no other results.

    Returns:
        The model's name and its tasks.

    Raises:
        XevalError: there is no such folder; it holds no results, or those of several models; a file that mteb did not write, a
            task twice.
    """
    if not folder.is_dir():
        raise XevalError(
            f"{folder}: expected a folder with results of mteb, such as results/MODEL/REVISION; there is none"
        )
    by_folder: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*.json")):
        inside = path.relative_to(folder).parts[:-1]
        if not (
            path.name == "model_meta.json"
            or path.name.endswith("_predictions.json")
            or "experiments" in inside
        ):
            by_folder.setdefault(path.parent, []).append(path)
    if not by_folder:
        raise XevalError(
            f"{folder}: expected result files of mteb (TASK.json); there is none, here or in a folder under it"
        )
    if len(by_folder) > 1:
        listed = [str(place.relative_to(folder)) for place in by_folder]
        raise XevalError(
            f"{folder}: expected the results of one model, but {len(listed)} folders hold some "
            f"({shortened(listed)}); give one of them"
        )
    ((place, paths),) = by_folder.items()
    tasks: dict[str, MtebTask] = {}
    for path in paths:
        task = _read_task(path)
        if task.name in tasks:
            raise XevalError(
                f"{place}: two files hold results of the task {task.name!r}; leave one"
            )
        tasks[task.name] = task
    model, revision = _model_of(place)
    return MtebResults(model=model, revision=revision, tasks=tasks)


def shortened(names: Iterable[str], most: int = 6) -> str:
    """Some names and the number of the others.

    Example:
        >>> shortened("abcd", 2)
        'a, b and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _model_of(place: Path) -> tuple[str, str]:
    path = place / "model_meta.json"
    meta = _json(path) if path.is_file() else {}
    place = place.resolve()
    name = meta.get("name") or place.parent.name or place.name
    return str(name).replace("__", "/"), str(meta.get("revision") or place.name)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise XevalError(
            f"{path}: not JSON ({error}); evaluate again, or take the file away"
        ) from error
    if not isinstance(content, dict):
        raise XevalError(
            f"{path}: expected a JSON object, got {type(content).__name__}; take it away"
        )
    return content


def _read_task(path: Path) -> MtebTask:
    content = _json(path)
    try:
        if "mteb_dataset_name" in content:
            name, entries = str(content["mteb_dataset_name"]), list(_older_entries(content))
        else:
            name = str(content["task_name"])
            entries = [
                (str(split), str(entry["hf_subset"]), entry, entry["main_score"])
                for split, of_split in content["scores"].items()
                for entry in of_split
            ]
        scores: dict[tuple[str, str], MtebScore] = {}
        kind = "other"
        for split, subset, entry, main in entries:
            if (split, subset) in scores:
                raise XevalError(
                    f"{path}: the subset {subset!r} of the split {split!r} stands there twice; leave one"
                )
            measures = _flat(entry)
            kind = next(
                (k for k, signs, _ in _KINDS if not measures.keys().isdisjoint(signs)), kind
            )
            scores[split, subset] = _score(entry, main, measures, kind)
    except (KeyError, TypeError, AttributeError) as error:
        raise XevalError(
            f"{path}: not a result file of mteb (expected task_name and scores {{split: [{{hf_subset, main_score, …}}]}}; "
            f"{type(error).__name__}: {error}); take it away, or evaluate again"
        ) from error
    revision = str(content.get("dataset_revision") or "")
    return MtebTask(
        name=name,
        kind=kind,
        revision=None if revision in _UNSTATED else revision,
        version=str(content.get("mteb_version") or ""),
        scores=scores,
    )


def _older_entries(content: Mapping[str, Any]) -> Iterable[tuple[str, str, dict[str, Any], Any]]:
    """(split, subset, measures, main score or None) of a file from before mteb 1.11."""
    for split, of_split in content.items():
        if split in ("mteb_dataset_name", "dataset_revision", "mteb_version"):
            continue
        values = {key: value for key, value in of_split.items() if key != "evaluation_time"}
        several = any(
            isinstance(value, dict) and key not in (*_SIMILARITIES, "v_measures")
            for key, value in values.items()
        )
        for subset, entry in (values if several else {"default": values}).items():
            yield str(split), str(subset), entry, entry.get("main_score")


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Measures, those of similarities by joint names: cos_sim → spearman is cosine_spearman."""
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if name in _SIMILARITIES and isinstance(value, dict):
            flat |= {f"{_SIMILARITIES[name]}_{key}": deeper for key, deeper in value.items()}
        else:
            flat[name] = value
    return flat


def _score(entry: Mapping[str, Any], main: Any, measures: dict[str, Any], kind: str) -> MtebScore:
    measure = None
    if main is None and "main_score" not in entry:
        candidates = next((named for k, _, named in _KINDS if k == kind), ())
        measure = next((name for name in candidates if name in measures), None)
        main = measures.get(measure) if measure else None
    if isinstance(main, bool) or not isinstance(main, int | float | None):
        raise TypeError(f"main_score is {main!r}, expected a number")
    return MtebScore(
        main_score=None if main is None or not math.isfinite(main) else float(main),
        languages=tuple(map(str, entry.get("languages", ()))),
        measure=measure,
        measures={
            name: float(value)
            for name, value in measures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )
