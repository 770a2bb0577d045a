"""How the commands behave: refusals in one sentence, progress on standard error, silent libraries."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from safetensors import SafetensorError

from teacherzoo.cli.disk import is_about_room
from teacherzoo.cli.plain_lines import PlainLines
from teacherzoo.errors import CorpusError, TeacherzooError, is_lack_of_memory
from teacherzoo.processes import rank
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge import VocabularyError
from vocabmerge.hub.texts import PREFIX, parse_hub_source

if TYPE_CHECKING:
    from teacherzoo.text.corpora import Corpus

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not tell the progress.")]
P = ParamSpec("P")
R = TypeVar("R")


def package_app(package: str, summary: str) -> typer.Typer:
    """A package's command line: help where nothing is typed, `--version`, and what DeepSpeed's launcher says to processes.

    Args:
        package: its name.
        summary: of what it is for.
    """
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{package} {version(package)}")
            raise typer.Exit()

    @app.callback(help=summary)
    def main(
        version: bool = typer.Option(
            False,
            "--version",
            callback=print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
        local_rank: int | None = typer.Option(
            None, "--local_rank", hidden=True, help="DeepSpeed's launcher says it here, too."
        ),
    ) -> None:
        pass

    return app


def refusing_plainly(
    command: Callable[P, R], *, refusals: Callable[[], tuple[type[Exception], ...]] = tuple
) -> Callable[P, R]:
    """Turn refusals into one sentence on standard error and exit status 2, and hush the libraries below.

    Args:
        command: what is typed.
        refusals: gives the kinds of errors that are refusals beside teacherzoo's.
    """

    def kinds() -> tuple[type[Exception], ...]:
        return (TeacherzooError, *refusals())

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _hush()
        try:
            return command(*args, **kwargs)
        except kinds() as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
        except (OSError, SafetensorError, RuntimeError, MemoryError) as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            typer.echo(sentence, err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted; the same command goes on from what is done.", err=True)
            raise typer.Exit(130) from error

    return run


def _sentence(error: Exception) -> str | None:
    """About a full disk or too little memory; None for other errors, whose traceback is wanted."""
    if is_about_room(error):
        return (
            "Nothing more can be written, for the disk is full or a quota is spent; what was done before is kept: make "
            "room and run the same command again."
        )
    if is_lack_of_memory(error):
        return (
            "Memory does not suffice; what was finished before is kept: free some, or take smaller batches, shorter rows or a "
            "smaller model, and run the command again."
        )
    return None


def corpora_named(given: Sequence[str], **options: Any) -> list[Corpus]:
    """The corpora of `--corpus LANGUAGE=SOURCE`, each with these options; `hub:NAME[:CONFIG[:SPLIT]]` is a data set on the Hub.

    Raises:
        CorpusError: for one that is not written so or not there, and for options that make no sense.
    """
    from teacherzoo.text.corpora import Corpus

    corpora = []
    for text in given:
        language, separator, source = text.partition("=")
        if not separator or not source:
            raise CorpusError(f"--corpus must be LANGUAGE=SOURCE, got {text!r}.")
        hub: dict[str, Any] = {}
        if source.startswith(PREFIX):
            try:
                source, hub["config"], hub["split"] = parse_hub_source(source)
            except VocabularyError as error:
                raise CorpusError(f"--corpus {language}: {error}.") from error
        corpora.append(Corpus(language, source, **hub, **options))
        corpora[-1].files()  # refuses what is not there before anything slow is imported
    return corpora


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Progress on standard error, by the first process alone: a bar in a terminal, elsewhere plain lines.

    Args:
        quiet: say nothing.
    """
    from teacherzoo.training.arguments import leave_deepspeed_alone

    leave_deepspeed_alone()
    # DeepSpeed prints; standard output belongs to the result.
    with contextlib.redirect_stdout(sys.stderr):
        if quiet or rank() != 0:
            yield no_progress
        elif sys.stderr.isatty():
            with _bar() as watch:
                yield watch
        else:
            with PlainLines(sys.stderr) as watch:
                yield watch


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=None)

        def watch(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield watch


def _hush() -> None:
    """Before or after they are imported: transformers' report on loaded weights and its bars, DeepSpeed's greetings."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # It warns on standard output, too.
    logging.getLogger("DeepSpeed").addFilter(_is_an_error)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if "transformers" in sys.modules:  # it has read them already
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def _is_an_error(entry: logging.LogRecord) -> bool:
    return entry.levelno >= logging.ERROR
