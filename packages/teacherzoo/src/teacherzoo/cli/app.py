"""The command line of teacherzoo."""

from typing import Annotated

import typer

from teacherzoo import __version__
from teacherzoo.cli import signals as cli_signals
from teacherzoo.cli import teachers as cli_teachers

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"teacherzoo {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    local_rank: Annotated[
        int | None,
        typer.Option("--local_rank", hidden=True, help="DeepSpeed's launcher says it here, too."),
    ] = None,
) -> None:
    """Masked-LM teachers: who they are, how good each is at each language, and what they said."""


cli_teachers.register(app)
cli_signals.register(app)
