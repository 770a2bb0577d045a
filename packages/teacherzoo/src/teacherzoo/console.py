"""How the commands behave: refusals in one sentence, progress on standard error, silent libraries."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import typer
from safetensors import SafetensorError

from teacherzoo.disk import is_about_room
from teacherzoo.errors import TeacherzooError
from teacherzoo.processes import rank
from teacherzoo.survey import Watch

P = ParamSpec("P")
R = TypeVar("R")


def refusing_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one sentence on standard error and exit status 2, and hush the libraries below."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _hush()
        try:
            return command(*args, **kwargs)
        except TeacherzooError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
        except (OSError, SafetensorError, RuntimeError) as error:
            if not is_about_room(error):
                raise
            typer.echo(
                "Nothing more can be written, for the disk is full or a quota is spent; what was done before is kept: make "
                "room and run the same command again.",
                err=True,
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted; the same command goes on from what is done.", err=True)
            raise typer.Exit(130) from error

    return run


@contextlib.contextmanager
def progress() -> Iterator[Watch]:
    """A bar with the time left on standard error; nothing where that is no terminal, or in processes but the first."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=rank() != 0 or not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading", total=None)

        def watch(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        # DeepSpeed prints; standard output belongs to the result.
        with contextlib.redirect_stdout(sys.stderr):
            yield watch


def _hush() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # It warns on standard output, too.
    logging.getLogger("DeepSpeed").addFilter(lambda entry: entry.levelno >= logging.ERROR)
