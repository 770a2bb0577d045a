"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from xeval.protocol import Protocol
from xeval.tasks import TASKS

DEFAULT = Protocol()


def listed(finetuned: bool) -> str:
    """The names of the tasks that are fine-tuned, or of the others, in words."""
    *first, last = [task.name for task in TASKS.values() if task.finetuned == finetuned]
    return f"{', '.join(first)} or {last}"


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
Length = Annotated[int, typer.Option(help="Sub-words per window.")]
Pooling = Annotated[
    str, typer.Option(help="Words by their first sub-word, or the mean: first|mean.")
]
Precision = Annotated[str, typer.Option(help="Of tuning: auto|float32.")]
Labels = Annotated[str, typer.Option(help="NER types: common (PER, LOC, ORG) | own.")]
Layer = Annotated[
    int | None, typer.Option(help="Retrieval: hidden layer; the middle one if absent.")
]
Csls = Annotated[int, typer.Option(help="Retrieval: CSLS neighbours; 0 is cosine.")]
MaskRate = Annotated[float, typer.Option(help="Bits per byte: share of words per pass.")]
Lines = Annotated[int, typer.Option(help="Bits per byte: lines per language; 0 is all.")]

Files = Annotated[list[Path], typer.Argument(help="Results files, JSON Lines.")]
Protocols = Annotated[
    list[str] | None, typer.Option("--protocol", help="Only results of this protocol digest.")
]
Source = Annotated[str | None, typer.Option(help="Only results of models tuned on this language.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="Only this metric.")]
