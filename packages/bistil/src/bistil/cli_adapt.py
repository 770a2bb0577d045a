"""The command `adapt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bistil import task_options as o
from bistil.console import refusing_plainly
from bistil.errors import AdaptError
from teacherzoo.console import progress


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("adapt")(refusing_plainly(adapt_command))


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
    data: o.Data = "data",
    attention: Annotated[float, typer.Option(help="Weight of attention maps.")] = 1.0,
    hidden: Annotated[float, typer.Option(help="Weight of hidden states.")] = 1.0,
    soft: Annotated[float, typer.Option(help="Weight of the teacher's answers.")] = 1.0,
    gold: Annotated[float, typer.Option(help="Weight of the labels.")] = 0.0,
    temperature: Annotated[float, typer.Option(help="Of the answers.")] = 2.0,
    times_t_squared: Annotated[bool, typer.Option(help="Answers weigh T² times as much.")] = False,
    steps: o.Steps = 2000,
    full_steps: o.FullSteps = None,
    batch: o.Batch = 8,
    learning_rate: o.Rate = 5e-5,
    warmup: o.Warmup = 0.0,
    weight_decay: o.Decay = 0.0,
    evaluate_every: o.Every = 200,
    patience: o.Patience = 1000,
    length: o.Length = 256,
    pooling: o.Pooling = "first",
    precision: o.Precision = "auto",
    labels: o.Labels = "common",
    density: o.Density = None,
    count: o.Count = None,
    l1: o.Distance = 0.0,
    norms: o.Norms = False,
    full: o.Full = False,
    values: o.Values = "bfloat16",
    seed: o.Seed = 0,
    trainer: o.Arguments = None,
    as_json: o.Json = False,
) -> None:
    """Adapt a student to a task under a teacher that knows it. Run it again to go on where it stopped."""
    from bistil.adapt import TaskTeacher, adapt
    from bistil.distilling import Distillation
    from bistil.task_training import TaskTraining
    from xeval import Protocol, open_source

    if (teacher is None) != no_teacher:
        raise AdaptError("Give --teacher MODEL, or --no-teacher to learn from the labels alone.")
    if no_teacher and (task_sft or language_sft):
        raise AdaptError("--task-sft and --language-sft are worn by a teacher; name it by --teacher.")  # fmt: skip
    protocol = Protocol(
        steps=steps, batch_size=batch, learning_rate=learning_rate, warmup=warmup, weight_decay=weight_decay,
        evaluate_every=evaluate_every, patience=patience, max_length=length, pooling=pooling, precision=precision,
        labels=labels,
    )  # fmt: skip
    training = TaskTraining(
        protocol=protocol,
        sparsity=o.sparsity_of(density, count, full_steps, l1, norms, full, values, default=0.08),
        seed=seed,
        arguments=o.arguments_in(trainer),
    )
    with progress() as watch:
        adapt(
            student,
            out,
            task=task,
            source=open_source(data),
            language=source,
            teacher=None if teacher is None else TaskTeacher(model=teacher, task_sft=task_sft, language_sfts=language_sft or []),
            training=training,
            distillation=Distillation(
                attention=attention, hidden=hidden, soft=soft, gold=gold, temperature=temperature, times_t_squared=times_t_squared
            ),
            watch=watch,
        )  # fmt: skip
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))["record"]
    if as_json:
        typer.echo(json.dumps({"out": str(out), **record}))
        return
    [(metric, value)] = record["dev"].items()
    typer.echo(f"{out}: {metric} {value:.2f} on the development set")
