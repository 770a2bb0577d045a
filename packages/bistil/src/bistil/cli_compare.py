"""The command `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bistil.console import refusing_plainly
from teacherzoo.console import progress


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compare")(refusing_plainly(compare_command))


def compare_command(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare systems on targets, tasks and seeds. Run it again to go on where it stopped."""
    from bistil.compare import compare, summary
    from bistil.compare_recipe import read_comparison

    with progress() as watch:
        results, notes = compare(read_comparison(recipe), watch=watch)
    means = summary(results)
    if as_json:
        typer.echo(json.dumps({"results": str(results), "means": means, "notes": notes}))
        return
    for note in notes:
        typer.echo(note, err=True)
    for task, systems in means.items():
        for system, mean in sorted(systems.items(), key=lambda pair: -pair[1]):
            typer.echo(f"{task:<12}{system:<18}{mean:6.2f}")
    typer.echo(f"{results}: for tests and intervals, `xeval compare SYSTEM SYSTEM {results}`")
