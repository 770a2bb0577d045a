"""The commands `measure` and `export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bistil.cli.console import refusing_plainly
from bistil.cli.export_tables import print_exported, print_tried
from bistil.cli.options import language_sources
from bistil.errors import ExportError
from bistil.export.eight_bits.openvino_ir import UNCALIBRATED
from bistil.export.eight_bits.targets import TARGETS
from teacherzoo.cache import refuse_what_exists
from teacherzoo.cli.console import Json, Quiet, progress

if TYPE_CHECKING:
    from bistil.export.measure import Measured


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("measure")(refusing_plainly(measure_command))
    app.command("export")(refusing_plainly(export_command))


def measure_command(
    models: Annotated[list[Path], typer.Argument(help="Model folders; ratios are to the first.")],
    threads: Annotated[
        int | None, typer.Option(min=1, help="Beside one; else torch's own.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples per pass.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Sub-words per example.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes.")] = 20,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure models: parameters by place, bytes, operations, latency at one thread and at several, energy."""
    from bistil.export.measure import measure

    with progress(quiet=quiet) as watch:
        measured = {
            str(model): measure(
                model, threads=threads, batch=batch, length=length, repeats=repeats, watch=watch
            )
            for model in models
        }
    if as_json:
        typer.echo(json.dumps({name: asdict(figures) for name, figures in measured.items()}))
        return
    _print_measured(measured, length)


def export_command(
    model: Annotated[
        str, typer.Argument(help="A model folder, or one that xeval tune or adapt wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    target: Annotated[
        str, typer.Option("--for", help=f"The processors it is for: {'|'.join(TARGETS)}.")
    ] = "cpu",
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="LANGUAGE=FILE, folder or hub:NAME[:CONFIG[:SPLIT]] to judge eight bits on; repeat. Rerankers read lines "
            "`query TAB passage`, question answering `question TAB passage`."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Test sets to judge on: a folder as xeval reads it, or hub:NAME."),
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Of --data: languages or sets.", show_default="all")
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(help="Points of 100 that eight bits may lose at most.", show_default="0.5"),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Put in front of texts where the model expects one; a second is for documents."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as ONNX, in float32 and in eight bits that lose no more than a bound on your text and test sets."""
    texts = language_sources("--text", text or [], "LANGUAGE=FILE, a folder or hub:NAME")
    if target not in TARGETS:
        raise ExportError(f"--for must be one of {', '.join(TARGETS)}, got {target!r}.")
    if target == "openvino" and not texts:
        raise ExportError(UNCALIBRATED)
    if languages is not None and data is None:
        raise ExportError("--languages chooses among the test sets of --data; give that, or leave it out.")  # fmt: skip
    if bound is not None and bound >= 0 and not texts and data is None:
        raise ExportError("--bound is kept on lines of --text or test sets of --data; give one of them, or leave it out.")  # fmt: skip
    refuse_what_exists(out, ExportError)
    from bistil.export.judge.search import BoundError
    from bistil.export.run import BOUND, export
    from xeval.data.source import open_source

    try:
        with progress(quiet=quiet) as watch:
            exported = export(
                model,
                out,
                target=target,
                texts=texts,
                source=None if data is None else open_source(data),
                languages=[
                    name.strip() for name in (languages or "all").split(",") if name.strip()
                ],
                bound=BOUND if bound is None else bound,
                prompts=tuple(prompt or ()),
                watch=watch,
            )
    except BoundError as error:
        if as_json:
            typer.echo(
                json.dumps({"folder": None, "tried": [asdict(trial) for trial in error.tried]})
            )
        else:
            print_tried(error.tried)
        raise
    if as_json:
        typer.echo(json.dumps(asdict(exported)))
        return
    print_exported(exported)


def _print_measured(measured: dict[str, Measured], length: int) -> None:
    from rich.console import Console
    from rich.table import Table

    first = next(iter(measured.values()))
    table = Table(title=f"{length} sub-words", title_justify="left")
    threads = first.many.threads
    for head in ("model", "embeddings", "layers", "head", "MiB", "GFLOP", "ms, 1 thread", f"ms, {threads} threads"):  # fmt: skip
        table.add_column(head, justify="left" if head == "model" else "right")
    with_energy = all(figures.joules is not None for figures in measured.values())
    if with_energy:
        table.add_column("J an example", justify="right")
    for name, figures in measured.items():
        parameters = figures.one.parameters
        times = [
            f"{cost.latency_ms:,.1f} (×{reference.latency_ms / cost.latency_ms:.2f})"
            for cost, reference in ((figures.one, first.one), (figures.many, first.many))
        ]
        table.add_row(
            name,
            f"{parameters.embeddings:,}",
            f"{parameters.body:,}",
            f"{parameters.head:,}",
            f"{figures.one.bytes / 2**20:,.1f}",
            f"{figures.one.flops / 1e9:,.2f}",
            *times,
            *([f"{float(f'{figures.joules:.3g}'):,g}"] if with_energy else []),
        )
    Console().print(table)
    if not with_energy:
        typer.echo("energy: not measured; no counter of the processor can be read here (/sys/class/powercap, often by root alone)")  # fmt: skip
