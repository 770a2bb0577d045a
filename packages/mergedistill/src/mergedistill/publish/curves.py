"""The learning curves of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

# What is drawn where it was logged: title, unit, and its name in the log, before the language.
_CURVES = (
    ("cross-entropy with the text", "nats per masked piece", "hard"),
    ("divergence from the teacher", "nats per masked piece", "divergence"),
    ("distance from the encoder's states", "share of their variance", "states"),
    ("held-out text", "bits per byte", "eval_bits_per_byte"),
    ("held-out masked accuracy", "share of pieces", "eval_accuracy"),
)
_LINES = ("-", "--", ":", "-.")
_COLOURS = 10  # of matplotlib's cycle; then the lines change


def draw_curves(log: Sequence[Mapping[str, float]], languages: Sequence[str], file: Path) -> None:
    """What each language learned, by step, in two columns so that a page shows it at a readable size.

    Args:
        log: of a training.
        languages: a line for each.
        file: of the picture.
    """
    from matplotlib.figure import Figure

    shown = [
        (title, unit, part)
        for title, unit, part in _CURVES
        if any(f"{part}_{language}" in entry for entry in log for language in languages)
    ]
    rows = max(
        1, (len(shown) + 1) // 2
    )  # nothing may have been logged: few steps, and no text held out
    figure = Figure(figsize=(8, 2.8 * rows + 0.4), layout="constrained")
    places = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in places[len(shown) :]:
        axes.set_axis_off()
    for axes, (title, unit, part) in zip(places, shown, strict=False):
        for number, language in enumerate(languages):
            key = f"{part}_{language}"
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            style = _LINES[number // _COLOURS % len(_LINES)]
            marker = "o" if len(points) == 1 else None
            axes.plot(*_columns(points), style, color=f"C{number}", marker=marker, label=language)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = places[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=8, loc="outside lower center")
    figure.savefig(file, dpi=130)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
