"""The command `adapt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bistil.cli import options as o
from bistil.cli.console import refusing_plainly
from bistil.errors import AdaptError
from bistil.losses.table import ADAPT_TERMS
from bistil.losses.weights import TaskLossWeights
from teacherzoo.cache import refuse_what_exists
from teacherzoo.cli.console import Json, Quiet, progress
from teacherzoo.processes import rank


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("adapt")(refusing_plainly(adapt_command))


@o.with_term_options(*ADAPT_TERMS)
def adapt_command(
    student: Annotated[str, typer.Argument(help="A folder that `extract` wrote.")],
    task: Annotated[str, typer.Option(help="pos, dp, ner, nli, paraphrase, topic, qa or choice.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    teacher: Annotated[
        str | None,
        typer.Option(help="What the student came from, or a folder that `xeval tune` wrote."),
    ] = None,
    task_sft: Annotated[
        Path | None, typer.Option(help="The teacher's file for the task; made if not given.")
    ] = None,
    language_sft: Annotated[
        list[Path] | None, typer.Option(help="The teacher's for the source language; repeat.")
    ] = None,
    no_teacher: Annotated[
        bool, typer.Option("--no-teacher", help="Learn from the labels alone.")
    ] = False,
    source: Annotated[str, typer.Option(help="The task's language or data set.")] = "en",
    data: o.Data = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="LANGUAGE=FILE of text without labels, which the teacher labels; its answers alone teach then, with T of 1, unless stated. Repeat."
        ),
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(help="Of --text, in each language at most.", show_default="10,000"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="For each of the student's layers the teacher's, such as 1,3,5.",
            show_default="what `extract` wrote, or the last of each block",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Steps of the phase that trains the chosen entries.")
    ] = 2000,
    full_steps: o.FullSteps = None,
    batch: Annotated[int, typer.Option(help="Examples in a step, over all processes.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 5e-5,
    warmup: Annotated[float, typer.Option(help="Share of the steps that lead up to it.")] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the chosen entries.")] = 0.0,
    evaluate_every: Annotated[
        int, typer.Option(help="Steps between evaluations and checkpoints.")
    ] = 200,
    patience: Annotated[
        int, typer.Option(help="Evaluations without improvement that end a phase.")
    ] = 1000,
    length: Annotated[int, typer.Option(help="Sub-words in a row.")] = 256,
    pooling: o.Pooling = None,
    precision: o.Precision = "auto",
    labels: o.Labels = None,
    density: Annotated[
        float | None, typer.Option(help="Share of the body's entries to keep.", show_default="0.08")
    ] = None,
    count: o.Count = None,
    l1: Annotated[float, typer.Option(help="L1 weight of the distance from the start.")] = 0.0,
    norms: o.Norms = False,
    full: o.Full = False,
    values: o.Values = "bfloat16",
    seed: o.Seed = 0,
    trainer: o.Arguments = None,
    as_json: Json = False,
    quiet: Quiet = False,
    **loss: Any,
) -> None:
    """Adapt a student to a task under a teacher that knows it. Run it again to go on where it stopped."""
    if (teacher is None) != no_teacher:
        raise AdaptError("Give --teacher MODEL, or --no-teacher to learn from the labels alone.")
    if no_teacher and (task_sft or language_sft):
        raise AdaptError("--task-sft and --language-sft are applied to a teacher; name it by --teacher.")  # fmt: skip
    if no_teacher:
        flags = {f"--{name.replace('_', '-')}": value for name, value in loss.items()}
        o.refuse(
            {"--layers": layers, "--text": text, **flags},
            because="with --no-teacher, where the labels alone teach",
        )
    if not text:
        o.refuse({"--lines": lines}, because="without --text")
    o.refuse_for_task(task, labels=labels, pooling=pooling)
    refuse_what_exists(out, AdaptError)
    sources = o.language_sources("--text", text or [], "LANGUAGE=FILE")
    correspondence, arguments = o.layers_of(layers), o.arguments_in(trainer)
    # What needs no library that takes seconds to import was refused by now.
    from bistil.lottery.config import Sparsity
    from bistil.tasks.adapt import adapt
    from bistil.tasks.teacher import TaskTeacher
    from bistil.tasks.training import TaskTraining
    from bistil.tasks.unlabelled import UnlabelledText
    from xeval import open_source

    protocol = o.protocol_of(
        labels=labels, steps=steps, batch_size=batch, learning_rate=learning_rate, warmup=warmup,
        weight_decay=weight_decay, evaluate_every=evaluate_every, patience=patience, max_length=length, pooling=pooling,
        precision=precision,
    )  # fmt: skip
    sparsity = o.sparsity_of(
        Sparsity(), density=density, count=count, full_steps=full_steps, l1=l1, norms=norms, full=full, values=values
    )  # fmt: skip
    with_sft: dict[str, Any] = {"task_sft": task_sft, "language_sfts": language_sft or []}
    with progress(quiet=quiet) as watch:
        adapt(
            student,
            out,
            task=task,
            source=open_source(data or "data"),
            language=source,
            teacher=None if teacher is None else TaskTeacher(model=teacher, **with_sft),
            training=TaskTraining(
                protocol=protocol, sparsity=sparsity, seed=seed, arguments=arguments
            ),
            loss=TaskLossWeights.suited(text=bool(sources), **o.given(**loss)),
            layers=correspondence,
            text=UnlabelledText(sources=sources, **o.given(lines=lines)) if sources else None,
            watch=watch,
        )
    if rank() != 0:
        return
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))["record"]
    if as_json:
        typer.echo(json.dumps({"out": str(out), **record}))
        return
    [(metric, value)] = record["dev"].items()
    typer.echo(f"{out}: {metric} {value:.2f} on the development set")
