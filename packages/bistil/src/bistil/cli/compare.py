"""The command `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bistil.cli.console import refusing_plainly
from teacherzoo.cli.console import Json, Quiet, progress
from teacherzoo.processes import rank


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compare")(refusing_plainly(compare_command))


def compare_command(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare systems on targets, tasks and seeds. Run it again to go on where it stopped."""
    from bistil.compare.recipe import read_comparison

    stated = read_comparison(recipe)  # before anything that takes seconds to import
    from bistil.compare.identity import WantedResults, results_of, summary
    from bistil.compare.run import compare
    from xeval import read_results
    from xeval.statistics.display_names import model_labels

    wanted = WantedResults(stated)
    with progress(quiet=quiet) as watch:
        results, notes = compare(stated, wanted=wanted, watch=watch)
    if rank() != 0:
        return
    rows, others = results_of(stated, wanted)
    means = summary(rows)
    if as_json:
        typer.echo(json.dumps({"results": str(results), "means": means, "notes": notes, "left_out": others}))  # fmt: skip
        return
    for note in notes:
        typer.echo(note, err=True)
    for task, systems in means.items():
        for system, mean in sorted(systems.items(), key=lambda pair: -pair[1]):
            typer.echo(f"{task:<12}{system:<24}{mean:6.2f}")
    labels = model_labels(read_results(results))
    names = list(dict.fromkeys(labels[row.model, row.model_digest] for row in rows))
    if others:
        typer.echo(f"{others} other figures in {results} are left out: of other recipes or data, or not asked for by this one.")  # fmt: skip
        typer.echo(f"Those of this recipe are called {', '.join(names)} there.")
    if len(names) > 1:
        typer.echo(f"{results}: for tests and intervals, `xeval compare {names[0]} {names[1]} {results}`")  # fmt: skip
    else:
        typer.echo(f"{results}: there is no second system to test this one against; for intervals, `xeval report {results}`")  # fmt: skip
