"""The commands `sft` and `compose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bistil.cli import options as o
from bistil.cli.console import refusing_plainly
from bistil.errors import AdaptError
from bistil.text.languages import text_files
from teacherzoo.cache import refuse_what_exists
from teacherzoo.cli.console import Json, Quiet, progress
from teacherzoo.processes import rank

if TYPE_CHECKING:
    from bistil.sparse.difference import SparseFineTuning


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("sft")(refusing_plainly(sft_command))
    app.command("compose")(refusing_plainly(compose_command))


def sft_command(
    model: Annotated[str, typer.Argument(help="A masked-LM folder or a Hub name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    corpus: Annotated[
        str | None, typer.Option(help="LANGUAGE=FILE or folder: learn a language.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Or learn a task: pos, dp, ner, …")] = None,
    source: Annotated[
        str | None, typer.Option(help="The task's language or data set.", show_default="en")
    ] = None,
    data: o.Data = None,
    language_sft: Annotated[
        list[Path] | None, typer.Option(help="Worn while the task is learnt; repeat.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of the phase that trains the chosen entries.",
            show_default="10000 for a language, 2000 for a task",
        ),
    ] = None,
    full_steps: o.FullSteps = None,
    batch: Annotated[
        int,
        typer.Option(help="Blocks of text or examples in a step, over all processes."),
    ] = 8,
    learning_rate: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 5e-5,
    warmup: Annotated[float, typer.Option(help="Share of the steps that lead up to it.")] = 0.0,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Weight decay of the chosen entries, of tasks.", show_default="0.0"),
    ] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between evaluations and checkpoints.",
            show_default="1000 for a language, 200 for a task",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Evaluations without improvement that end a phase, of tasks.",
            show_default="1000",
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="Sub-words in a row.")] = 256,
    pooling: o.Pooling = None,
    precision: o.Precision = "auto",
    labels: o.Labels = None,
    density: Annotated[
        float | None,
        typer.Option(
            help="Share of the body's entries to keep.",
            show_default="0.043 for a language, 0.08 for a task",
        ),
    ] = None,
    count: o.Count = None,
    l1: Annotated[
        float | None,
        typer.Option(
            help="L1 weight of the distance from the start.",
            show_default="0.1 for a language, 0.0 for a task and with --full",
        ),
    ] = None,
    norms: o.Norms = False,
    full: o.Full = False,
    values: o.Values = "bfloat16",
    seed: o.Seed = 0,
    trainer: o.Arguments = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a language or a task by sparse fine-tuning. Run it again to go on where it stopped."""
    if corpus is not None and task is None:
        of_tasks = {
            "--source": source, "--data": data, "--language-sft": language_sft, "--weight-decay": weight_decay,
            "--patience": patience, "--pooling": pooling, "--labels": labels,
        }  # fmt: skip
        o.refuse(of_tasks, because="on a language, which --corpus learns")
        language, _, text = corpus.partition("=")
        if not language or not text:
            raise AdaptError(f"--corpus must be LANGUAGE=FILE, got {corpus!r}.")
        o.check_precision(precision)
        text_files(language, text)
    elif task is None or corpus is not None:
        raise AdaptError("Give either --corpus LANGUAGE=FILE to learn a language, or --task to learn a task.")  # fmt: skip
    else:
        o.refuse_for_task(task, labels=labels, pooling=pooling)
    refuse_what_exists(out, AdaptError)
    arguments = o.arguments_in(trainer)
    kept: dict[str, Any] = {
        "density": density, "count": count, "full_steps": full_steps, "l1": l1, "norms": norms, "full": full, "values": values,
    }  # fmt: skip
    # What needs no library that takes seconds to import was refused by now.
    if task is None:
        from bistil.lottery.language import SPARSITY, LanguageTraining
        from bistil.lottery.language import language_sft as learn_language

        training = LanguageTraining(
            batch=batch, length=length, learning_rate=learning_rate, warmup=warmup, seed=seed, arguments=arguments,
            bf16=None if precision == "auto" else False,
            **o.given(steps=steps, evaluate_every=evaluate_every, checkpoint_every=evaluate_every),
        )  # fmt: skip
        sparsity = o.sparsity_of(SPARSITY, **kept)
        with progress(quiet=quiet) as watch:
            made = learn_language(
                model, text, out, language=language, training=training, sparsity=sparsity, watch=watch
            )  # fmt: skip
    else:
        from bistil.lottery.config import Sparsity
        from bistil.tasks.task_sft import task_sft
        from bistil.tasks.training import TaskTraining
        from xeval import open_source

        protocol = o.protocol_of(
            labels=labels, steps=steps, batch_size=batch, learning_rate=learning_rate, warmup=warmup,
            weight_decay=weight_decay, evaluate_every=evaluate_every, patience=patience, max_length=length, pooling=pooling,
            precision=precision,
        )  # fmt: skip
        sparsity = o.sparsity_of(Sparsity(), **kept)
        with progress(quiet=quiet) as watch:
            made = task_sft(
                model, out, task=task, source=open_source(data or "data"), language=source or "en",
                language_sfts=language_sft or [], watch=watch,
                training=TaskTraining(protocol=protocol, sparsity=sparsity, seed=seed, arguments=arguments),
            )  # fmt: skip
    if rank() == 0:
        _tell(made, out, as_json=as_json)


def compose_command(
    model: Annotated[str, typer.Argument(help="The base model: a folder or a Hub name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    add: Annotated[
        list[Path] | None, typer.Option(help="A sparse fine-tuning to add; repeat.")
    ] = None,
    subtract: Annotated[list[Path] | None, typer.Option(help="One to take away; repeat.")] = None,
    trimmed: Annotated[
        str | None,
        typer.Option(help="The model the files were made for, if MODEL has fewer pieces."),
    ] = None,
) -> None:
    """Write a model with sparse fine-tunings added: a tuned model if a task is among them, else a masked LM."""
    if not add and not subtract:
        raise AdaptError("There is nothing to compose; give --add FILE or --subtract FILE.")
    from bistil.tasks.compose import compose

    with progress() as watch:
        compose(model, out, add=add or [], subtract=subtract or [], trimmed_from=trimmed, watch=watch)  # fmt: skip
    typer.echo(str(out))


def _tell(made: SparseFineTuning, out: Path, *, as_json: bool) -> None:
    size = out.stat().st_size
    if as_json:
        facts = {"out": str(out), "count": made.count, "bytes": size, "base_digest": made.base_digest}  # fmt: skip
        typer.echo(json.dumps({**facts, **made.about}))
        return
    typer.echo(f"{out}: {made.count:,} entries, {size:,} bytes, {size / made.count:.2f} bytes an entry")  # fmt: skip
