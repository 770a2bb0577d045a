"""The command line of mergedistill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mergedistill import __version__
from mergedistill.console import refusing_plainly
from mergedistill.recipe import read_recipe
from mergedistill.run import run, status
from teacherzoo.console import progress

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
RecipeFile = Annotated[Path, typer.Argument(help="A recipe in YAML.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mergedistill {__version__}")
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
    """Many masked-LM teachers, one multilingual student."""


@app.command("run")
@refusing_plainly
def run_command(
    recipe: RecipeFile,
    until: Annotated[
        str, typer.Option(help="The last stage: vocabulary, record, train or card.")
    ] = "card",
    force: Annotated[
        str | None, typer.Option(help="Run this stage even if nothing changed.")
    ] = None,
) -> None:
    """Follow a recipe: a second call does nothing, an interrupted one goes on, a changed one redoes what depends on it."""
    followed = read_recipe(recipe)
    with progress() as watch:
        student = run(followed, until=until, force=force, watch=watch)
    typer.echo(f"{student}" if until == "card" else f"done until {until}")


@app.command("status")
@refusing_plainly
def status_command(
    recipe: RecipeFile, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Say which stages of a recipe are done."""
    found = status(read_recipe(recipe))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, done in found.items():
        typer.echo(f"{name:<12}{'done' if done else 'to do'}")
