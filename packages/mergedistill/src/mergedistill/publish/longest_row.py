"""The student's tokenizers say how many tokens the student reads, so that `truncation=True` cuts where it must."""

from __future__ import annotations

import json
from pathlib import Path

from mergedistill.recipe.recipe import Recipe
from teacherzoo.encoders.families import longest_row
from teacherzoo.encoders.teachers import read_config


def state_longest_row(recipe: Recipe, student: Path) -> None:
    """Write `model_max_length` into the common tokenizer and those of the languages.

    The vocabulary's have the shortest that a teacher states, which knows nothing of the student and may be missing.

    Args:
        recipe: of the run.
        student: its folder.
    """
    if recipe.student.start == "teacher":
        longest = longest_row(read_config(student, student.name))
    else:
        longest = recipe.student.longest_row
    if longest is None:
        return
    for folder in (student, *(student / "languages").iterdir()):
        file = folder / "tokenizer_config.json"
        stated = json.loads(file.read_text(encoding="utf-8")) | {"model_max_length": longest}
        file.write_text(json.dumps(stated, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
