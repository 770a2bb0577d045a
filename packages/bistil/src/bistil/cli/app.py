"""The command line of bistil."""

from typing import Annotated

import typer

from bistil import __version__
from bistil.cli import adapt as cli_adapt
from bistil.cli import compare as cli_compare
from bistil.cli import export as cli_export
from bistil.cli import extract as cli_extract
from bistil.cli import sft as cli_sft

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bistil {__version__}")
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
    """A small bilingual model out of a big multilingual one."""


cli_extract.register(app)
cli_sft.register(app)
cli_adapt.register(app)
cli_compare.register(app)
cli_export.register(app)
