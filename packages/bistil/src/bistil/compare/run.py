"""BiStil beside what it is compared with: the same data, steps and code, several targets, tasks and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bistil.compare.identity import WantedResults, results_of, summary
from bistil.compare.models import Models, require_kind, require_lines_of_text, require_rows
from bistil.compare.recipe import Comparison
from bistil.compare.systems import SYSTEMS
from bistil.errors import AdaptError
from bistil.tasks.adapt import ResultLabel
from teacherzoo.cache import gone_if_refused
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback, no_progress
from xeval import (
    DataSet,
    FineTunedTask,
    append_cost,
    cost,
    open_source,
    read_costs,
    read_results,
    task_of,
)
from xeval.evaluate.score import Label, score

__all__ = ["compare", "results_of", "summary"]


def compare(
    recipe: Comparison,
    *,
    wanted: WantedResults | None = None,
    watch: ProgressCallback = no_progress,
) -> tuple[Path, list[str]]:
    """Make every system for every target, task and seed, and let the judge score it (the comparisons of Ansell et al. 2023).

    What the results file has is not done again, and what was interrupted goes on; a changed recipe, another model or
    other texts are made anew beside, and so is what depends on a task's data where that changed. Where things lie makes no
    difference.

    The models that learn a task (`bistil.compare.systems.System` has how they do):

    - whole: the multilingual model; with sparse fine-tunings of languages those of the target are on.
    - bistil: extracted for source and target, by the terms and layers that suit the model's kind.
    - paper: as Ansell et al. (2023) do for masked LMs, whatever the model's kind: attention and hidden states, the last of each block of layers.
    - multitask: as bistil, of a teacher that was tuned on several tasks together before (ERNIE 3.0 Tiny; Liu et al. 2023).
    - trimmed: the whole model with the pieces of source and target, nothing else of it changed.
    - cut: bistil's student before phase 1.
    - small: trimmed to fewer pieces, and where these do not suffice to fewer layers, until it has the parameters of cut.
    - states: DistilBERT's way without a masked-LM head: states and their direction.
    - distilmbert, minilmv2: one student of all the corpora with the whole vocabulary, by that method's loss.
    - scratch: bistil's shape with random weights, trained on masked words, or, where the model has no masked-LM head, as bistil is.

    A task that asks a model as it is (bitext, bits per byte, a probe of frozen states) asks what a system would tune.
    All train for the same number of steps, on batches of one size.

    In results a system goes by its name and a digest of the recipe, so that targets and seeds are of one model.

    Args:
        recipe: what to do.
        wanted: of it, where its data has been read already.
        watch: told (done, total, what).

    Returns:
        The results file, and notes on what could not be compared.

    Raises:
        BistilError, TeacherzooError, VocabularyError, XevalError: for what cannot be made; they say why.

    Example:
        From a recipe beside its data, as `bistil compare recipe.yaml` does:

            results, notes = compare(read_comparison(Path("recipe.yaml")))
    """
    require_kind(recipe)
    require_rows(recipe)
    require_lines_of_text(recipe)
    wanted, out = wanted or WantedResults(recipe), Path(recipe.out)
    with gone_if_refused(out, new=rank() == 0 and not out.exists()):
        _make_folder(out)
        return _follow(recipe, wanted, out, watch), wanted.notes


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise AdaptError(
            f"{out} is to be a folder, and cannot be ({error.strerror}); state another `out`."
        ) from error


def _follow(recipe: Comparison, wanted: WantedResults, out: Path, watch: ProgressCallback) -> Path:
    plan = [
        (system, task, targets, seed)
        for seed in range(recipe.seeds)
        for task, targets in _asked_together(recipe, wanted)
        for system in recipe.systems
    ]
    models = Models(recipe, wanted)
    results, costs = out / "results.jsonl", out / "costs.jsonl"
    known = read_results(results) if results.is_file() else []
    wait_for_all()  # no process adds to the file before all have read it
    for number, (system, task, targets, seed) in enumerate(plan):
        target, sets = targets[0], [known for code in targets for known in wanted.sets[task, code]]
        inner = _labelled(watch, f"{number + 1} of {len(plan)}: {system} {task} {' '.join(targets)} seed {seed}")  # fmt: skip
        inner(0, 0, "looking")
        if not wanted.has(known, system, task, sets, seed):
            if isinstance(task_of(task), FineTunedTask):
                with models.with_task(system, task, target, seed, inner) as folder:
                    _score(folder, results, sets, recipe, inner)
            else:
                base = models.base(SYSTEMS[system].model, target, seed, inner)
                label = wanted.labels[system]
                named = Label(model=label.name, model_digest=label.digest, seed=seed)
                _score(base, results, sets, recipe, inner, task=task, language=recipe.data_of(task), label=named)  # fmt: skip
    for system in recipe.systems:
        if not _cost_is_known(costs, wanted.labels[system]):
            model = models.base(SYSTEMS[system].model, plan[0][2][0], 0, no_progress)
            _measure_cost(model, costs, wanted.labels[system], length=recipe.tune.length)
    return results


def _asked_together(recipe: Comparison, wanted: WantedResults) -> list[tuple[str, list[str]]]:
    """Tasks with targets that one model answers at once, such as those of a probe that is fitted once for all languages."""
    groups: list[tuple[str, list[str]]] = []
    for task, target in wanted.sets:
        as_it_is = not isinstance(task_of(task), FineTunedTask)
        if as_it_is and recipe.students == "shared" and groups and groups[-1][0] == task:
            groups[-1][1].append(target)
        else:
            groups.append((task, [target]))
    return groups


def _labelled(watch: ProgressCallback, label: str) -> ProgressCallback:
    return lambda done, total, what: watch(done, total, f"{label}: {what}")


def _score(
    folder: str | Path,
    results: Path,
    sets: Sequence[DataSet],
    recipe: Comparison,
    watch: ProgressCallback,
    **as_it_is: Any,
) -> None:
    """By the first process alone, while the others wait."""
    if rank() == 0:
        languages = [data_set.short for data_set in sets]
        score(folder, results, source=open_source(recipe.data), languages=languages, watch=watch, **as_it_is)  # fmt: skip
    wait_for_all()


def _cost_is_known(costs: Path, label: ResultLabel) -> bool:
    known = label.digest in (read_costs(costs) if costs.is_file() else {})
    wait_for_all()
    return known


def _measure_cost(model: str, costs: Path, label: ResultLabel, *, length: int) -> None:
    """Append what a system's model costs, measured on that of one target and the first seed."""
    if rank() == 0:
        measured = cost(model, length=length)
        append_cost(costs, replace(measured, model=label.name, model_digest=label.digest))
    wait_for_all()
