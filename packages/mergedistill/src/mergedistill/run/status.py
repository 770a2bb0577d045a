"""How far a run has come, in words for each stage."""

from __future__ import annotations

from mergedistill.recipe.language_teachers import teachers_in_use
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import recording_folder, settled, stages
from teacherzoo.signals.layout import MANIFEST


def standing(recipe: Recipe) -> dict[str, str]:
    """For each stage `done`, or `to do` and where it would go on."""
    return {
        name: "done" if stage.done else f"to do{_from_where(recipe, name)}"
        for name, stage in stages(recipe).items()
    }


def _from_where(recipe: Recipe, name: str) -> str:
    found = settled(recipe)
    if found is None:
        return ""
    if name == "record":
        folders = [
            recording_folder(recipe, each, language)
            for each, languages in teachers_in_use(recipe, found).values()
            for language in languages
        ]
        there = sum((folder / MANIFEST).is_file() for folder in folders)
        return f", {there} of {len(folders)} recordings are there" if there else ""
    if name == "train":
        from teacherzoo.training.watch import last_whole_checkpoint

        last = last_whole_checkpoint(stages(recipe)["train"].place / "checkpoints")
        return f", from step {last.rpartition('-')[2]}" if last else ""
    return ""
