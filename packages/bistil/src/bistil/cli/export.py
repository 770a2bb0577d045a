"""The commands `measure` and `export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bistil.cli.console import refusing_plainly
from teacherzoo.cli.console import Json, Quiet, progress

if TYPE_CHECKING:
    from bistil.export.measure import Measured
    from bistil.export.onnx import Exported
    from bistil.export.scores import ScoreDrop


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
    data: Annotated[
        Path | None, typer.Option(help="Data folder: score a tuned model before and after.")
    ] = None,
    languages: Annotated[str, typer.Option(help="Languages or data sets, or all.")] = "all",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as ONNX, in float32 and in eight bits, with its outputs compared with torch's."""
    from bistil.export.onnx import export

    drops: list[ScoreDrop] = []
    with progress(quiet=quiet) as watch:
        exported = export(model, out, watch=watch)
        if data is not None:
            from bistil.export.scores import int8_scores
            from xeval.data.source import LocalFolder

            chosen = [name.strip() for name in languages.split(",") if name.strip()]
            drops = int8_scores(model, out, source=LocalFolder(data), languages=chosen, watch=watch)
    if as_json:
        typer.echo(json.dumps({**asdict(exported), "scores": [asdict(drop) for drop in drops]}))
        return
    _print_exported(exported, drops)


def _print_exported(exported: Exported, drops: list[ScoreDrop]) -> None:
    sizes = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in exported.bytes.items())
    typer.echo(f"{exported.folder}: {sizes}, opset {exported.opset}")
    typer.echo(
        f"  largest difference from torch: float32 {exported.float32_difference:.2g}, int8 {exported.int8_difference:.2g}"
    )
    for drop in drops:
        typer.echo(
            f"  {drop.dataset}: {drop.metric} {drop.torch:.2f} in torch, {drop.int8:.2f} in eight bits "
            f"({drop.int8 - drop.torch:+.2f}, {drop.n} items)"
        )


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
            *([f"{figures.joules:,.3g}"] if with_energy else []),
        )
    Console().print(table)
    if not with_energy:
        typer.echo("energy: not measured; no counter of the processor can be read here (/sys/class/powercap, often by root alone)")  # fmt: skip
