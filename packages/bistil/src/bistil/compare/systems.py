"""The systems of a comparison: a model, how much of it learns a task, and from whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from teacherzoo.nearest import nearest

Model = Literal[
    "whole",
    "bistil",
    "paper",
    "multitask",
    "trimmed",
    "small",
    "cut",
    "states",
    "distilmbert",
    "minilmv2",
    "scratch",
]
MODELS: tuple[Model, ...] = get_args(Model)
OF_ALL_LANGUAGES: tuple[Model, ...] = ("distilmbert", "minilmv2")
"""Models that their authors extract once, for all languages, with the whole vocabulary."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One system.

    A system is written `MODEL`, `MODEL+labels`, `MODEL+text`, `MODEL+full`, `MODEL+full+labels` or `MODEL+full+text`. Without more it
    learns a task as BiStil does: by lottery-ticket sparse fine-tuning, from a teacher that knows the task. `full` frees all
    weights, for the steps of both phases of the sparse kind, and, where a recipe has no sparse fine-tunings of languages, those of the
    teacher, which is `whole+full` then; `labels` leaves the teacher out; with `text` the teacher labels lines of text in the source's
    and the targets' languages, too. `whole`, the model that all are made from, has no teacher.

    Args:
        name: as a recipe and the results have it.
        model: what learns the task.
        full: whether all its weights do.
        taught: whether it learns from a teacher, or from labels alone.
        text: whether the teacher labels lines of text, too.
    """

    name: str
    model: Model
    full: bool = False
    taught: bool = True
    text: bool = False


def _systems() -> dict[str, System]:
    systems = {}
    for model in MODELS:
        for full in (False, True):
            name = f"{model}+full" if full else model
            taught = model != "whole"
            systems[name] = System(name=name, model=model, full=full, taught=taught)
            if taught:
                systems[f"{name}+labels"] = System(
                    name=f"{name}+labels", model=model, full=full, taught=False
                )
                systems[f"{name}+text"] = System(
                    name=f"{name}+text", model=model, full=full, text=True
                )
    return systems


SYSTEMS = _systems()
PUBLISHED = ("bistil", "whole", "distilmbert+labels", "minilmv2+labels", "scratch+labels", "bistil+labels", "bistil+full")  # fmt: skip
"""The systems of Ansell et al. (2023), each as its authors tune it, and bistil without the one or the other."""


def require_system(name: str) -> str:
    """The name, if it is that of a system.

    Raises:
        ValueError: with the nearest name there is.
    """
    if name not in SYSTEMS:
        raise ValueError(
            f"expected {', '.join(MODELS)}, alone or with +full, and +labels or +text behind, got {name!r}"
            f"{nearest(name, SYSTEMS)}"
        )
    return name
