"""The whole protocol: tune on the source with several seeds, score every language, resume where it stopped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xeval.data.source import Source, choose_source, digest_of_training
from xeval.encoder import model_digest, model_name
from xeval.evaluate.score import score
from xeval.finetune.tune import tune
from xeval.progress import ProgressCallback, no_progress
from xeval.protocol import Protocol
from xeval.statistics.result import Result, digest_of
from xeval.statistics.results_file import require_no_folder
from xeval.task_templates.task import FineTunedTask
from xeval.tasks import task_of


def run(
    models: Sequence[str | Path],
    results: Path,
    *,
    tasks: Sequence[str],
    source: Source,
    language: str = "en",
    languages: Sequence[str] = ("all",),
    protocol: Protocol | None = None,
    seeds: int = 1,
    bootstraps: int = 0,
    work: Path | None = None,
    watch: ProgressCallback = no_progress,
) -> list[Result]:
    """Tune and score every model on every task: zero-shot cross-lingual transfer, with seeds.

    Each model is fine-tuned on the source language alone, with the seeds 0 … k − 1, and scored on the test sets of all
    languages, as in XTREME (Hu et al. 2020); tasks without a head ask the model as it is.

    What is there is not done again: a tuned folder of the same model, task, training data, protocol and seed, wherever model
    and data lie, and every figure that the results file has. Training data that changed is tuned on anew.

    Args:
        models: model folders or Hub names.
        results: a JSON Lines file.
        tasks: names.
        source: where the data lies.
        language: the source language, or a data set's own name.
        languages: as for `score`.
        protocol: settings of all tasks.
        seeds: tunings per model and task, with the seeds 0, 1, …
        bootstraps: as for `score`.
        work: where tuned models are kept; "tuned" beside the results when None.
        watch: told what is done.

    Returns:
        The figures on the whole test sets.

    Raises:
        XevalError: as `tune` and `score`.

    Example:
        >>> from xeval import LocalFolder
        >>> source = LocalFolder(Path("data"))
        >>> brief = Protocol(steps=4, evaluate_every=2, batch_size=8)
        >>> figures = run(
        ...     ["small"], Path("run/results.jsonl"), tasks=["pos"], source=source, language="xx", languages=["xx", "yy"],
        ...     protocol=brief, seeds=2,
        ... )
        >>> [(figure.language, figure.seed) for figure in figures]
        [('xx', 0), ('yy', 0), ('xx', 1), ('yy', 1)]
    """
    require_no_folder(results)
    protocol, work = protocol or Protocol(), work or results.parent / "tuned"
    reached: list[Result] = []
    for task in map(task_of, tasks):
        for model in map(str, models):
            if not isinstance(task, FineTunedTask):
                reached += score(
                    model, results, source=source, languages=languages, task=task.name,
                    language=language, protocol=protocol, bootstraps=bootstraps, watch=watch,
                )  # fmt: skip
                continue
            data_set = choose_source(source.data_sets(task), language)
            settings = digest_of(task.settings(protocol))[:8]
            data = digest_of_training(source, task, data_set)[:8]
            place = f"{re.sub('[^A-Za-z0-9._-]+', '_', Path(model_name(model)).name)}-{model_digest(model)[:8]}"
            for seed in range(seeds):
                folder = work / place / f"{task.name}-{data_set.short}-{data}-{settings}-seed{seed}"
                tune(
                    model, folder, task=task.name, source=source, language=language,
                    protocol=protocol, seed=seed, watch=watch,
                )  # fmt: skip
                reached += score(
                    folder, results, source=source, languages=languages,
                    bootstraps=bootstraps, watch=watch,
                )  # fmt: skip
    return reached
