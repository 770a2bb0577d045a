"""The command line of xeval."""

import json
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from xeval.cli import analyse
from xeval.cli import options as o
from xeval.cli.console import one_sentence, progress, table_console
from xeval.protocol import Protocol
from xeval.statistics.metrics import metric_of
from xeval.statistics.result import Result
from xeval.task_templates.task import FineTunedTask, ProbeTask
from xeval.tasks import task_of, task_to_tune

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xeval {version_of('distillery-xeval')}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The judge: fine-tune a model on one language, score it on every other, with intervals and costs."""


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="A model folder or Hub name.")],
    task: Annotated[str, typer.Option(help=f"{o.listed(finetuned=True)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    data: o.Data = "data",
    source: o.SourceLanguage = "en",
    seed: Annotated[int, typer.Option(min=0, help="Of head, order and dropout.")] = 0,
    learning_rate: o.Rate = o.DEFAULT.learning_rate,
    batch_size: o.Batch = o.DEFAULT.batch_size,
    steps: o.Steps = o.DEFAULT.steps,
    evaluate_every: o.Every = o.DEFAULT.evaluate_every,
    patience: o.Patience = o.DEFAULT.patience,
    max_length: o.Length = o.DEFAULT.max_length,
    pooling: o.Pooling = o.DEFAULT.pooling,
    precision: o.Precision = o.DEFAULT.precision,
    labels: o.Labels = o.DEFAULT.labels,
    cache: o.Cache = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Tune a model on the source language, with early stopping on its dev set."""
    with one_sentence(), progress(quiet=quiet) as watch:
        from xeval.data.source import choose_source, open_source

        protocol = Protocol(
            learning_rate=learning_rate, batch_size=batch_size, steps=steps,
            evaluate_every=evaluate_every, patience=patience, max_length=max_length,
            pooling=pooling, precision=precision, labels=labels,
        )  # fmt: skip
        opened = open_source(data, cache=cache)
        # What is to be refused is refused before torch is imported, which takes seconds.
        chosen = task_to_tune(task)
        o.refuse_without_effect(protocol, [chosen])
        choose_source(opened.data_sets(chosen), source)
        from xeval.finetune.tune import tune as tune_model

        notes = tune_model(
            model, out, task=task, source=opened, language=source, protocol=protocol, seed=seed,
            watch=watch,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"out": str(out), **notes}, ensure_ascii=False))
        return
    ((metric, value),) = notes["dev"].items()
    typer.echo(
        f"{out}: {metric} {value:.2f} on the dev set at step {notes['best_step']} of {notes['steps']}, {notes['precision']}"
    )
    for note in notes["notes"]:
        typer.echo(f"  {note}", err=True)


@app.command()
def score(
    model: Annotated[
        str,
        typer.Argument(help=f"A tuned folder; or any, with --task {o.listed(finetuned=False)}."),
    ],
    data: o.Data = "data",
    source: Annotated[
        str | None, typer.Option(help="Of a probe: source language or data set; if absent en.")
    ] = None,
    languages: o.Languages = "all",
    results: o.Results = Path("results.jsonl"),
    task: Annotated[
        str | None,
        typer.Option(help=f"For a model that was not tuned: {o.listed(finetuned=False)}."),
    ] = None,
    bootstraps: o.Bootstraps = 0,
    max_length: o.Length = o.DEFAULT.max_length,
    pooling: o.Pooling = o.DEFAULT.pooling,
    layer: o.Layer = None,
    csls: o.Csls = 0,
    prompt: o.Prompts = None,
    inverse_regularisation: o.Regularisation = None,
    mask_rate: o.MaskRate = o.DEFAULT.mask_rate,
    lines: o.Lines = o.DEFAULT.lines,
    cache: o.Cache = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Score a model on the test sets of many languages; a tuned one by the protocol of its tuning."""
    with one_sentence(), progress(quiet=quiet) as watch:
        from xeval.data.source import choose_source, choose_targets, open_source
        from xeval.finetune.record import task_to_score

        protocol = Protocol(
            max_length=max_length, pooling=pooling, layer=layer, csls=csls, mask_rate=mask_rate,
            lines=lines, inverse_regularisation=inverse_regularisation,
            **o.prompt_settings(prompt),
        )  # fmt: skip
        opened, names = open_source(data, cache=cache), o.names(languages, "--languages")
        chosen, record = task_to_score(model, task)
        o.refuse_without_effect(protocol, [chosen], model=model if record else "")
        if source is not None:
            o.refuse_source_without_effect([chosen], ProbeTask)
        language = source or "en"
        choose_targets(opened.data_sets(chosen), names)
        if isinstance(chosen, ProbeTask):
            choose_source(opened.data_sets(chosen), language)
        from xeval.evaluate.score import score as score_model

        figures = score_model(
            model, results, source=opened, languages=names, task=task, language=language,
            protocol=protocol, bootstraps=bootstraps, watch=watch,
        )  # fmt: skip
    _show(figures, as_json)


@app.command()
def run(
    models: Annotated[list[str], typer.Argument(help="Model folders or Hub names.")],
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")],
    data: o.Data = "data",
    source: Annotated[
        str | None, typer.Option(help="Source language or data set; if absent en.")
    ] = None,
    languages: o.Languages = "all",
    results: o.Results = Path("results.jsonl"),
    work: Annotated[
        Path | None, typer.Option(help="Where tuned models are kept; else beside the results.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Tunings per model and task.")] = 1,
    bootstraps: o.Bootstraps = 0,
    learning_rate: o.Rate = o.DEFAULT.learning_rate,
    batch_size: o.Batch = o.DEFAULT.batch_size,
    steps: o.Steps = o.DEFAULT.steps,
    evaluate_every: o.Every = o.DEFAULT.evaluate_every,
    patience: o.Patience = o.DEFAULT.patience,
    max_length: o.Length = o.DEFAULT.max_length,
    pooling: o.Pooling = o.DEFAULT.pooling,
    precision: o.Precision = o.DEFAULT.precision,
    labels: o.Labels = o.DEFAULT.labels,
    layer: o.Layer = None,
    csls: o.Csls = 0,
    prompt: o.Prompts = None,
    inverse_regularisation: o.Regularisation = None,
    mask_rate: o.MaskRate = o.DEFAULT.mask_rate,
    lines: o.Lines = o.DEFAULT.lines,
    cache: o.Cache = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Tune and score: models × tasks × seeds × languages. Run it again to go on where it stopped."""
    with one_sentence(), progress(quiet=quiet) as watch:
        from xeval.data.source import choose_source, choose_targets, open_source

        protocol = Protocol(
            learning_rate=learning_rate, batch_size=batch_size, steps=steps,
            evaluate_every=evaluate_every, patience=patience, max_length=max_length,
            pooling=pooling, precision=precision, labels=labels,
            layer=layer, csls=csls, mask_rate=mask_rate, lines=lines, **o.prompt_settings(prompt),
            inverse_regularisation=inverse_regularisation,
        )  # fmt: skip
        opened, names = open_source(data, cache=cache), o.names(languages, "--languages")
        chosen_tasks = list(map(task_of, o.names(tasks, "--tasks")))
        o.refuse_without_effect(protocol, chosen_tasks)
        if source is not None:
            o.refuse_source_without_effect(chosen_tasks, FineTunedTask | ProbeTask)
        language = source or "en"
        for chosen in chosen_tasks:
            sets = opened.data_sets(chosen)
            choose_targets(sets, names)
            if isinstance(chosen, FineTunedTask | ProbeTask):
                choose_source(sets, language)
        from xeval.evaluate.runner import run as run_all

        figures = run_all(
            list(dict.fromkeys(models)), results, tasks=[task.name for task in chosen_tasks], source=opened, language=language, languages=names,
            protocol=protocol, seeds=seeds, bootstraps=bootstraps, work=work, watch=watch,
        )  # fmt: skip
    _show(figures, as_json)


analyse.register(app)


def _show(results: list[Result], as_json: bool) -> None:
    if as_json:
        for r in results:
            record = {
                "model": r.model, "task": r.task, "dataset": r.dataset, "language": r.language,
                "seed": r.seed, "metric": r.metric, "value": r.value, "n": r.n,
                "skipped": r.skipped,
            }  # fmt: skip
            typer.echo(json.dumps(record, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in ("model", "task", "data set", "seed", "metric", "value", "n"):
        table.add_column(head, overflow="fold")
    for r in results:
        metric = metric_of(r.metric)
        figure = f"{r.value:.{metric.digits}f} {metric.unit}" if r.value is not None else None
        value = figure or f"not run: {r.skipped}"
        cells = (r.model, r.task, r.dataset, str(r.seed), r.metric, value, str(r.n))
        table.add_row(*map(Text, cells))  # not strings: a name in square brackets is no markup
    table_console().print(table)
