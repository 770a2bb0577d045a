"""What `bistil export` shows: sizes, what eight bits lose and where, and the variants that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from bistil.export.judge.drop import Drop
    from bistil.export.judge.search import Trial
    from bistil.export.run import Exported


def print_exported(exported: Exported) -> None:
    """The files, then what the smaller one loses."""
    sizes = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in exported.bytes.items())
    typer.echo(f"{exported.folder}: {sizes}, opset {exported.opset}")
    typer.echo(
        f"  largest difference from torch: float32 {exported.float32_difference:.2g}, eight bits {exported.int8_difference:.2g}"
    )
    for warning in exported.warnings:
        typer.echo(f"  {warning}", err=True)
    if len(exported.tried) > 1:
        print_tried(exported.tried)
    if exported.drops:
        _print_drops(exported)
    typer.echo(exported.verdict)


def print_tried(tried: Sequence[Trial]) -> None:
    """Each variant with its size and its worst drop."""
    table = _table("tried", ("variant", "MiB", "worst drop [95 %]", "of", "n", "within"))
    for trial in tried:
        worst = trial.worst
        table.add_row(
            trial.variant,
            f"{trial.bytes / 2**20:,.1f}",
            points(worst),
            f"{worst.place}, {worst.measure}",
            f"{worst.n:,}",
            "yes" if trial.met else "no",
        )
    _print(table)


def points(drop: Drop) -> str:
    """A drop with its interval."""
    if drop.low is None or drop.high is None:
        return _figure(drop.points)
    return f"{_figure(drop.points)} [{_figure(drop.low)}, {_figure(drop.high)}]"


def _figure(value: float) -> str:
    """Two places, or where these would say nothing one digit."""
    return (
        f"{value:.1g}"
        if 1e-9 < abs(value) < 0.005
        else f"{abs(value) if abs(value) <= 1e-9 else value:.2f}"
    )


def _print_drops(exported: Exported) -> None:
    title = f"{exported.variant}: points lost against float32, bound {exported.bound:g}"
    table = _table(
        title, ("where", "measure", "n", "float32", "eight bits", "drop [95 %]", "bound")
    )
    for drop in exported.drops:
        table.add_row(
            drop.place,
            drop.measure,
            f"{drop.n:,}",
            f"{drop.float32:.2f}",
            f"{drop.quantized:.2f}",
            points(drop),
            "kept" if drop.gated else "",
        )
    _print(table)


def _table(title: str, heads: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for head in heads:
        words = head in ("variant", "of", "where", "measure")
        table.add_column(head, justify="left" if words else "right", no_wrap=head != "variant")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    # In a file, in a pipe and in a narrow window alike a row stays one.
    Console(width=max(console.width, 120)).print(table)
