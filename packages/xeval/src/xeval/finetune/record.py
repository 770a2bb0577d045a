"""What `xeval.json` of a tuned folder says, and which task a model can be scored on: read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xeval.errors import XevalError
from xeval.task_templates.task import Task
from xeval.tasks import task_of

FORMAT = 1


def task_to_score(model: str, task: str | None) -> tuple[Task, dict[str, Any] | None]:
    """The task a model is scored on, and the record of its tuning where it was tuned for that.

    Raises:
        XevalError: the model was not tuned, or not for this task.
    """
    if task is None or (Path(model) / "xeval.json").is_file():
        record = read_record(Path(model))
        if task in (None, record["task"]):
            return task_of(record["task"]), record
    chosen = task_of(str(task))
    if chosen.finetuned:
        raise XevalError(
            f"{model}: was not tuned for {task!r}; tune it first (`xeval tune {model} --task {task} --out FOLDER`), or use `xeval run`"
        )
    return chosen, None


def read_record(folder: Path) -> dict[str, Any]:
    """What `xeval.json` of a tuned folder says.

    Raises:
        XevalError: when the folder was not written by `xeval tune`, or by another version of it.
    """
    path = folder / "xeval.json"
    if not path.is_file():
        raise XevalError(
            f"{folder}: expected a folder written by `xeval tune` (with xeval.json and head.safetensors); tune the model first"
        )
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise XevalError(f"{path}: not JSON ({error}); tune the model again") from error
    if record.get("format") != FORMAT:
        raise XevalError(
            f"{path}: expected format {FORMAT}, got {record.get('format')!r}; tune again with this version"
        )
    return record
