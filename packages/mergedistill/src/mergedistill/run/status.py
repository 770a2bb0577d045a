"""How far a run has come: which stages are done, and where the others would go on."""

from __future__ import annotations

from mergedistill.recipe.language_teachers import teachers_in_use
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import known_ensembles, recording_folder, stages
from teacherzoo.signals.layout import MANIFEST


def status(recipe: Recipe) -> dict[str, bool]:
    """Which stages are done, of these very inputs.

    Args:
        recipe: see `read_recipe`.

    Returns:
        Stage, in order, to whether `run` would pass over it.

    Raises:
        TeacherzooError: for texts and teachers that are not there.

    Example:
            undone = [stage for stage, done in status(read_recipe(Path("recipe.yaml"))).items() if not done]
    """
    return {name: stage.done for name, stage in stages(recipe).items()}


def status_in_words(recipe: Recipe) -> dict[str, str]:
    """For each stage `done`, or `to do` and where it would go on."""
    return {
        name: "done" if done else f"to do{_from_where(recipe, name)}"
        for name, done in status(recipe).items()
    }


def _from_where(recipe: Recipe, name: str) -> str:
    ensembles = known_ensembles(recipe)
    if ensembles is None:
        return ""
    if name == "record":
        folders = [
            recording_folder(recipe, teacher, language)
            for teacher, languages in teachers_in_use(recipe, ensembles).values()
            for language in languages
        ]
        there = sum((folder / MANIFEST).is_file() for folder in folders)
        return f", {there} of {len(folders)} recordings are there" if there else ""
    checkpoints = stages(recipe)["train"].checkpoints
    if name == "train" and checkpoints.is_dir():
        from teacherzoo.training.watch import last_whole_checkpoint

        last = last_whole_checkpoint(checkpoints)
        return f", from step {last.rpartition('-')[2]}" if last else ""
    return ""
