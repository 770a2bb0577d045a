"""The command line of xeval."""

import json
from pathlib import Path
from typing import Annotated

import typer

from xeval import __version__
from xeval.cli import analyse
from xeval.cli.console import Quiet, one_sentence, progress
from xeval.protocol import Protocol
from xeval.statistics.results import Result
from xeval.task_templates.task import FineTunedTask
from xeval.tasks import task_of, task_to_tune

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Data = Annotated[
    str, typer.Option(help="A data folder, or hub:NAME for a standard set of the Hub.")
]
Languages = Annotated[
    str, typer.Option(help="Languages or data sets, separated by commas; or all.")
]
Bootstraps = Annotated[int, typer.Option(min=0, help="Further figures on resampled test items.")]
Results = Annotated[Path, typer.Option(help="The JSON Lines file to append to.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Cache = Annotated[
    Path | None, typer.Option(help="Where parsed treebanks are kept; else $XEVAL_CACHE.")
]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
Batch = Annotated[int, typer.Option(help="Examples per optimizer step.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps at most.")]
Every = Annotated[int, typer.Option(help="Steps between evaluations on the dev set.")]
Patience = Annotated[int, typer.Option(help="Evaluations without gain before stopping.")]
Length = Annotated[int, typer.Option(help="Sub-words per window.")]
Pooling = Annotated[
    str, typer.Option(help="Words by their first sub-word, or the mean: first|mean.")
]
Precision = Annotated[str, typer.Option(help="Of tuning: auto|float32.")]
Labels = Annotated[str, typer.Option(help="NER types: common (PER, LOC, ORG) | own.")]
Layer = Annotated[
    int | None, typer.Option(help="Retrieval: hidden layer; the middle one if absent.")
]
Csls = Annotated[int, typer.Option(help="Retrieval: CSLS neighbours; 0 is cosine.")]
MaskRate = Annotated[float, typer.Option(help="Bits per byte: share of words per pass.")]
Lines = Annotated[int, typer.Option(help="Bits per byte: lines per language; 0 is all.")]

_DEFAULT = Protocol()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xeval {__version__}")
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
    task: Annotated[str, typer.Option(help="pos, dp, ner, nli, paraphrase, topic, choice or qa.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    data: Data = "data",
    source: Annotated[str, typer.Option(help="Source language or data set.")] = "en",
    seed: Annotated[int, typer.Option(min=0, help="Of head, order and dropout.")] = 0,
    learning_rate: Rate = _DEFAULT.learning_rate,
    batch_size: Batch = _DEFAULT.batch_size,
    steps: Steps = _DEFAULT.steps,
    evaluate_every: Every = _DEFAULT.evaluate_every,
    patience: Patience = _DEFAULT.patience,
    max_length: Length = _DEFAULT.max_length,
    pooling: Pooling = _DEFAULT.pooling,
    precision: Precision = _DEFAULT.precision,
    labels: Labels = _DEFAULT.labels,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
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
        choose_source(opened.data_sets(task_to_tune(task)), source)
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
        str, typer.Argument(help="A tuned folder; or any, with --task bpb|retrieval.")
    ],
    data: Data = "data",
    languages: Languages = "all",
    results: Results = Path("results.jsonl"),
    task: Annotated[
        str | None, typer.Option(help="For a model that was not tuned: bpb or retrieval.")
    ] = None,
    bootstraps: Bootstraps = 0,
    max_length: Length = _DEFAULT.max_length,
    layer: Layer = None,
    csls: Csls = 0,
    mask_rate: MaskRate = _DEFAULT.mask_rate,
    lines: Lines = _DEFAULT.lines,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score a model on the test sets of many languages; a tuned one by the protocol of its tuning."""
    with one_sentence(), progress(quiet=quiet) as watch:
        from xeval.data.source import choose_targets, open_source
        from xeval.finetune.record import task_to_score

        protocol = Protocol(
            max_length=max_length, layer=layer, csls=csls, mask_rate=mask_rate, lines=lines
        )
        opened, names = open_source(data, cache=cache), _names(languages)
        chosen, _ = task_to_score(model, task)
        choose_targets(opened.data_sets(chosen), names)
        from xeval.evaluate.score import score as score_model

        found = score_model(
            model, results, source=opened, languages=names, task=task, protocol=protocol,
            bootstraps=bootstraps, watch=watch,
        )  # fmt: skip
    _show(found, as_json)


@app.command()
def run(
    models: Annotated[list[str], typer.Argument(help="Model folders or Hub names.")],
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")],
    data: Data = "data",
    source: Annotated[str, typer.Option(help="Source language or data set.")] = "en",
    languages: Languages = "all",
    results: Results = Path("results.jsonl"),
    work: Annotated[
        Path | None, typer.Option(help="Where tuned models are kept; else beside the results.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Tunings per model and task.")] = 1,
    bootstraps: Bootstraps = 0,
    learning_rate: Rate = _DEFAULT.learning_rate,
    batch_size: Batch = _DEFAULT.batch_size,
    steps: Steps = _DEFAULT.steps,
    evaluate_every: Every = _DEFAULT.evaluate_every,
    patience: Patience = _DEFAULT.patience,
    max_length: Length = _DEFAULT.max_length,
    pooling: Pooling = _DEFAULT.pooling,
    precision: Precision = _DEFAULT.precision,
    labels: Labels = _DEFAULT.labels,
    layer: Layer = None,
    csls: Csls = 0,
    mask_rate: MaskRate = _DEFAULT.mask_rate,
    lines: Lines = _DEFAULT.lines,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Tune and score: models × tasks × seeds × languages. Run it again to go on where it stopped."""
    with one_sentence(), progress(quiet=quiet) as watch:
        from xeval.data.source import choose_source, choose_targets, open_source

        protocol = Protocol(
            learning_rate=learning_rate, batch_size=batch_size, steps=steps,
            evaluate_every=evaluate_every, patience=patience, max_length=max_length,
            pooling=pooling, precision=precision, labels=labels,
            layer=layer, csls=csls, mask_rate=mask_rate, lines=lines,
        )  # fmt: skip
        opened, names = open_source(data, cache=cache), _names(languages)
        for chosen in map(task_of, _names(tasks)):
            sets = opened.data_sets(chosen)
            choose_targets(sets, names)
            if isinstance(chosen, FineTunedTask):
                choose_source(sets, source)
        from xeval.evaluate.runner import run as run_all

        found = run_all(
            models, results, tasks=_names(tasks), source=opened, language=source, languages=names,
            protocol=protocol, seeds=seeds, bootstraps=bootstraps, work=work, watch=watch,
        )  # fmt: skip
    _show(found, as_json)


analyse.register(app)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


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
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "task", "data set", "seed", "metric", "value", "n")
    for r in results:
        value = f"{r.value:.2f}" if r.value is not None else f"not run: {r.skipped}"
        table.add_row(r.model, r.task, r.dataset, str(r.seed), r.metric, value, str(r.n))
    Console().print(table)
