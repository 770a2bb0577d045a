"""The commands `sft` and `compose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bistil import task_options as o
from bistil.console import refusing_plainly
from bistil.errors import AdaptError
from teacherzoo.console import progress

if TYPE_CHECKING:
    from bistil.sparse_file import SparseFineTuning


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
    source: Annotated[str, typer.Option(help="The task's language or data set.")] = "en",
    data: o.Data = "data",
    language_sft: Annotated[
        list[Path] | None, typer.Option(help="Worn while the task is learnt; repeat.")
    ] = None,
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
    """Learn a language or a task by sparse fine-tuning. Run it again to go on where it stopped."""
    if (corpus is None) == (task is None):
        raise AdaptError("Give either --corpus LANGUAGE=FILE to learn a language, or --task to learn a task.")  # fmt: skip
    sparsity = o.sparsity_of(
        density, count, full_steps, l1, norms, full, values, default=0.043 if corpus else 0.08
    )
    arguments = o.arguments_in(trainer)
    with progress() as watch:
        if corpus is not None:
            from bistil.language_sft import LanguageTraining
            from bistil.language_sft import language_sft as learn_language
            from xeval.tuning import has_bf16

            language, _, text = corpus.partition("=")
            if not language or not text:
                raise AdaptError(f"--corpus must be LANGUAGE=FILE, got {corpus!r}.")
            made = learn_language(
                model, text, out, language=language, sparsity=sparsity, watch=watch,
                training=LanguageTraining(
                    steps=steps, batch=batch, length=length, learning_rate=learning_rate, warmup=warmup,
                    evaluate_every=evaluate_every, checkpoint_every=evaluate_every,
                    bf16=precision == "auto" and has_bf16(), seed=seed, arguments=arguments,
                ),
            )  # fmt: skip
        else:
            from bistil.task_sft import task_sft
            from bistil.task_training import TaskTraining
            from xeval import Protocol, open_source

            assert task is not None
            protocol = Protocol(
                steps=steps, batch_size=batch, learning_rate=learning_rate, warmup=warmup, weight_decay=weight_decay,
                evaluate_every=evaluate_every, patience=patience, max_length=length, pooling=pooling,
                precision=precision, labels=labels,
            )  # fmt: skip
            made = task_sft(
                model, out, task=task, source=open_source(data), language=source,
                language_sfts=language_sft or [], watch=watch,
                training=TaskTraining(protocol=protocol, sparsity=sparsity, seed=seed, arguments=arguments),
            )  # fmt: skip
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
    from bistil.task_sft import compose

    if not add and not subtract:
        raise AdaptError("There is nothing to compose; give --add FILE or --subtract FILE.")
    compose(model, out, add=add or [], subtract=subtract or [], trimmed_from=trimmed)
    typer.echo(str(out))


def _tell(made: SparseFineTuning, out: Path, *, as_json: bool) -> None:
    size = out.stat().st_size
    if as_json:
        facts = {"out": str(out), "count": made.count, "bytes": size, "base_digest": made.base_digest}  # fmt: skip
        typer.echo(json.dumps({**facts, **made.about}))
        return
    typer.echo(f"{out}: {made.count:,} entries, {size:,} bytes, {size / made.count:.2f} bytes an entry")  # fmt: skip
