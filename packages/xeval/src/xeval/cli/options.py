"""Options that several commands have."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any

import typer

from xeval.errors import XevalError
from xeval.protocol import PROMPTS, Protocol
from xeval.task_templates.task import Task
from xeval.tasks import TASKS

DEFAULT = Protocol()


def listed(finetuned: bool) -> str:
    """The names of the tasks that are fine-tuned, or of the others, in words."""
    *first, last = [task.name for task in TASKS.values() if task.finetuned == finetuned]
    return f"{', '.join(first)} or {last}"


def prompt_settings(given: list[str] | None) -> dict[str, Any]:
    """The settings of a `Protocol` that `--prompt ROLE=TEXT` means.

    Raises:
        XevalError: no role, an unknown one, or one twice.
    """
    settings: dict[str, Any] = {}
    for prompt in given or []:
        role, equals, text = prompt.partition("=")
        if not equals or role not in ("text", "query", "document"):
            raise XevalError(
                f"--prompt {prompt!r}: expected text=, query= or document= and what stands before them, such as 'query=query: '"
            )
        if f"{role}_prompt" in settings:
            raise XevalError(f"--prompt {prompt!r}: there are two for {role}; give one")
        settings[f"{role}_prompt"] = text
    return settings


def refuse_without_effect(protocol: Protocol, tasks: Iterable[Task], *, model: str = "") -> None:
    """Refuse a setting that none of the tasks reads.

    Args:
        protocol: the settings as given.
        tasks: what is run.
        model: a tuned folder, whose own protocol is taken; "" for none.

    Raises:
        XevalError: naming the option, and the tasks that read it.
    """
    tasks = list(tasks)
    read = {name for task in tasks for name in task.settings(protocol) if not model}
    for name in (field.name for field in fields(Protocol)):
        if name in read or getattr(protocol, name) == getattr(DEFAULT, name):
            continue
        option = f"--{name.replace('_', '-')}"
        if name in PROMPTS:
            option = f"--prompt {name.removesuffix('_prompt')}="
        if model:
            raise XevalError(
                f"{model}: is scored by the protocol of its tuning, and {option} would change nothing; leave it out"
            )
        readers = ", ".join(task.name for task in TASKS.values() if name in task.settings(DEFAULT))
        raise XevalError(
            f"{option} would change nothing for {', '.join(task.name for task in tasks)}; leave it out, or take a task that "
            f"reads it ({readers})"
        )


def refuse_source_without_effect(tasks: Sequence[Task], learning: type | UnionType) -> None:
    """Refuse a source language where nothing is learned.

    Args:
        tasks: what is run.
        learning: the kinds of tasks that learn.

    Raises:
        XevalError: naming the tasks, and those that learn.
    """
    if not any(isinstance(task, learning) for task in tasks):
        learners = ", ".join(task.name for task in TASKS.values() if isinstance(task, learning))
        raise XevalError(
            f"--source would change nothing for {', '.join(task.name for task in tasks)}, of which nothing is learned; leave it "
            f"out, or take a task that learns ({learners})"
        )


def names(text: str, option: str) -> list[str]:
    """The names in a list separated by commas, each once.

    Raises:
        XevalError: there are none, as where a shell's variable is empty.
    """
    listed = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    if not listed:
        raise XevalError(f"{option} {text!r}: expected names separated by commas, got none")
    return list(listed)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

Data = Annotated[
    str, typer.Option(help="A data folder, or hub:NAME for a standard set of the Hub.")
]
SourceLanguage = Annotated[str, typer.Option("--source", help="Source language or data set.")]
Languages = Annotated[
    str, typer.Option(help="Languages or data sets, separated by commas; or all.")
]
Bootstraps = Annotated[int, typer.Option(min=0, help="Further figures on resampled test items.")]
Results = Annotated[Path, typer.Option(help="The JSON Lines file to append to.")]
Cache = Annotated[
    Path | None, typer.Option(help="Where parsed treebanks are kept; else $XEVAL_CACHE.")
]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
Batch = Annotated[int, typer.Option(help="Examples per optimizer step.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps at most.")]
Every = Annotated[int, typer.Option(help="Steps between evaluations on the dev set.")]
Patience = Annotated[int, typer.Option(help="Evaluations without gain before stopping.")]
Length = Annotated[
    int | None,
    typer.Option(help="Sub-words per window; if absent 256, or a sentence encoder's own limit."),
]
Pooling = Annotated[
    str, typer.Option(help="Words by their first sub-word, or the mean: first|mean.")
]
Precision = Annotated[str, typer.Option(help="Of tuning: auto|float32.")]
Labels = Annotated[str, typer.Option(help="NER types: common (PER, LOC, ORG) | own.")]
Layer = Annotated[
    int | None,
    typer.Option(
        help="Texts of a plain encoder: hidden layer, if absent the middle one; of words: chosen on the dev set."
    ),
]
Csls = Annotated[int, typer.Option(help="Bitext: CSLS neighbours; 0 is plain similarity.")]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="ROLE=TEXT",
        help="What stands before texts (bitext, sts, topic_probe, topic_ridge), queries or documents, in place of the model's own: text=, query=, document=.",
    ),
]
Regularisation = Annotated[
    float | None,
    typer.Option(
        "--inverse-regularisation",
        help="Probes: C of the regression, 1 in mteb; chosen on the dev set if absent.",
    ),
]
MaskRate = Annotated[float, typer.Option(help="Bits per byte: share of words per pass.")]
Lines = Annotated[int, typer.Option(help="Bits per byte: lines per language; 0 is all.")]

Files = Annotated[list[Path], typer.Argument(help="Results files, JSON Lines.")]
Protocols = Annotated[
    list[str] | None, typer.Option("--protocol", help="Only results of this protocol digest.")
]
Source = Annotated[str | None, typer.Option(help="Only results of models tuned on this language.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="Only this metric.")]
