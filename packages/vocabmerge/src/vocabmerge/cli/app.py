"""The command line of vocabmerge."""

from typing import Annotated

import typer

from vocabmerge import __version__
from vocabmerge.cli.carry import carry
from vocabmerge.cli.merge import merge
from vocabmerge.cli.trim import apply, trim
from vocabmerge.cli.vocabularies import count, inspect, overlap

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vocabmerge {__version__}")
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
    """True unions and exact trims of Hugging Face tokenizers, and the embeddings that go with them."""


for command in (merge, overlap, inspect, count, trim, apply, carry):
    app.command()(command)
