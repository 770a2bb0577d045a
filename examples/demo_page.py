"""How the story is told: one table and one page, made from what the judge wrote; nothing is measured here."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from demo_experiment import Experiment

TITLES = {
    "multilingual": "multilingual teacher",
    "plain": "student without teachers",
    "merged": "**merged student**",
    "bilingual": "**bilingual student**",
}


def write_table(experiment: Experiment) -> str:
    """Markdown, also in `table.md`: a row for each model, what it got right in each language and what it costs; then who is ahead."""
    import xeval

    results = xeval.read_results(experiment.results)
    tables = {table.task: table for table in xeval.summarise(results).tables}
    costs_by_line = [json.loads(line) for line in experiment.costs.read_text().splitlines()]
    costs = {Path(line["model"]).name: line for line in costs_by_line}
    heads = [
        "model",
        *(f"tags, {code}" for code in experiment.languages),
        *(f"bits, {code}" for code in experiment.teachers),
        f"tuned, {experiment.source}",
        "parameters, body + embeddings",
        "ms",
    ]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, folder in experiment.models().items():
        cost = costs[folder.name]
        rows.append(
            [
                TITLES.get(name, name.replace("-", " ")),
                *(_cell(tables["pos_probe"], name, code, 1) for code in experiment.languages),
                *(_cell(tables["bpb"], name, code, 2) for code in experiment.teachers),
                _cell(tables["pos"], name, experiment.source, 1),
                f"{_thousands(cost['parameters'] - cost['embedding_parameters'])} + {_thousands(cost['embedding_parameters'])}",
                f"{cost['latency_ms']:.1f}",
            ]
        )
    if experiment.made_up:
        floors = json.loads(experiment.floors.read_text())
        bits = [f"{floors[code]:.2f}" for code in experiment.teachers]
        rows.append(["the world itself", *["—"] * len(experiment.languages), *bits, "—", "—", "—"])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    told = "\n".join([table, "", *differences(experiment, results), "", f"{LEGEND} {where()}", ""])
    (experiment.out / "table.md").write_text(told, encoding="utf-8")
    return told


def differences(experiment: Experiment, results: Sequence[Any]) -> Iterator[str]:
    """What a student has more or less than its rival in the mean over the languages that the student was trained on, a line each."""
    import xeval

    for student, rival in (("merged", "plain"), ("bilingual", "multilingual")):
        languages = experiment.known_to(student)
        judged = [r for r in results if r.task != "pos" and r.language in languages]
        means = {c.task: c.mean for c in xeval.compare(judged, student, rival)}
        tags, bits = means["pos_probe"], means["bpb"]
        yield (
            f"- {TITLES[student]} − {TITLES[rival]}, mean of {_words(languages)}: "
            f"tags {tags.difference:+.1f} ({tags.low:+.1f} to {tags.high:+.1f}), "
            f"bits {bits.difference:+.3f} ({bits.low:+.3f} to {bits.high:+.3f})"
        )


def where() -> str:
    """The machine and the library that the figures hold for."""
    import torch
    from record import machine

    return f"Made on {machine()}, torch {torch.__version__}."


LEGEND = (
    "tags: words tagged right, %, by a linear probe of frozen states that is fitted once, on the first language, with half the width "
    "of the 95 % interval; tuned: the same by a tuned model; bits: bits per byte of held-out text, lower is better; ms: one sentence of 32 pieces on one thread."
)


def _cell(table: Any, model: str, language: str, digits: int) -> str:
    """A score and half its interval; by the first data set, where a language has several."""
    place = next(place for place, code in table.places.items() if code == language)
    estimate = table.cells.get((model, place))
    if estimate is None:
        return "—"
    if estimate.low is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ±{(estimate.high - estimate.low) / 2:.{digits}f}"


def _thousands(count: int) -> str:
    return f"{count / 1000:,.0f}k"


# --- the page ---------------------------------------------------------------------------------------------------------


def write_page(experiment: Experiment) -> Path:
    """`report.html`, self-contained: what the teachers' vocabularies share, how the students learnt, who won at what measure_costs."""
    import xeval

    results = xeval.with_costs(
        xeval.read_results(experiment.results), xeval.read_costs(experiment.costs)
    )
    plots = experiment.out / "plots"
    xeval.write_plots(results, plots)
    (experiment.out / "judge.html").write_text(
        xeval.page(results, title="Judge's report"), encoding="utf-8"
    )
    vocabularies = _overlap(experiment)
    curves = _curves(experiment)
    source, target = experiment.pair
    body = "\n".join(
        [
            "<h1>Three teachers become one; one becomes small</h1>",
            f"<p>Teachers of {_words(experiment.teachers)} were merged into one student. A multilingual teacher of "
            f"{_words(experiment.languages)} gave a bilingual student of {_words(experiment.pair)} with half its layers. Tags "
            f"were learnt in {source} alone and are judged in every language. {LEGEND} {where()}</p>",
            *_told((experiment.out / "table.md").read_text(encoding="utf-8")),
            "<h2>What the vocabularies share</h2>",
            "<p>Pieces in common; the colour is their share of the row's vocabulary. Pieces are compared by what they stand for, "
            "so that tokenizers of different families meet.</p>",
            _figure(vocabularies, "overlap of the vocabularies"),
            "<h2>How the students learnt</h2>",
            "<p>Bits per byte on held-out text, lower is better. Both students see the same text for the same number of "
            "steps; one of them also sees what the teachers said."
            + (" The dotted line is what no model can beat." if experiment.made_up else "")
            + "</p>",
            _figure(curves, "bits per byte while training, for each language"),
            "<h2>Languages and models</h2>",
            _figure(
                _picture(plots, "pos-probe-accuracy-languages"), "tags right, languages by models"
            ),
            "<h2>Score against size</h2>",
            _figure(
                _picture(plots, "pos-probe-accuracy-parameters"), "tags right against parameters"
            ),
            f"<p>All figures with their intervals: <a href='judge.html'>the judge's report</a>. The transfer from {source} "
            f"to {target} is what the bilingual student was made for.</p>",
        ]
    )
    file = experiment.out / "report.html"
    file.write_text(_PAGE.format(body=body), encoding="utf-8")
    return file


def _overlap(experiment: Experiment) -> bytes:
    from vocabmerge import overlap, read_vocabulary
    from vocabmerge.union.report import heatmap

    names = [*(f"teacher-{code}" for code in experiment.teachers), "multilingual"]
    vocabularies = [
        read_vocabulary(experiment.out / name / "tokenizer.json", name=name) for name in names
    ]
    shared = overlap([*vocabularies, read_vocabulary(experiment.out / "merged", name="merged")])
    return heatmap(shared["shared"], shared["names"])


def _curves(experiment: Experiment) -> bytes:
    from matplotlib.figure import Figure

    floors = json.loads(experiment.floors.read_text()) if experiment.made_up else {}
    picture = Figure(figsize=(3.2 * len(experiment.teachers), 3), layout="constrained")
    for place, code in enumerate(experiment.teachers, start=1):
        axes = picture.add_subplot(1, len(experiment.teachers), place)
        for name, colour in (("plain", "#888888"), ("merged", "#0072b2")):
            log = json.loads(
                next((experiment.out / f"{name}-run" / "training").glob("*/log.json")).read_text()
            )
            key = f"eval_bits_per_byte_{code}"
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            axes.plot(*zip(*points, strict=True), label=name, color=colour)
        if code in floors:
            axes.axhline(floors[code], linestyle=":", color="black", label="the world itself")
            axes.set_ylim(bottom=0)
        axes.set(title=code, xlabel="step")
        if place == 1:
            axes.set_ylabel("bits per byte")
            axes.legend(frameon=False)
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _picture(folder: Path, stem: str) -> bytes:
    return (folder / f"{stem}.png").read_bytes()


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}"></figure>'


def _told(markdown: str) -> Iterator[str]:
    """The table and the lines below it as HTML."""
    lines = markdown.splitlines()
    head, _, *rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    cells = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    for row in rows:
        bold = row[0].startswith("**")
        shown = [html.escape(cell.strip("*")) for cell in row]
        cells.append(
            f"<tr{' class=ours' if bold else ''}>{''.join(f'<td>{cell}</td>' for cell in shown)}</tr>"
        )
    yield f"<div class=wide><table>{''.join(cells)}</table></div>"
    said = [html.escape(line[2:].replace("**", "")) for line in lines if line.startswith("- ")]
    yield f"<ul>{''.join(f'<li>{line}</li>' for line in said)}</ul>"


def _words(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Distillery, the demo</title>
<style>
:root {{ color-scheme: light dark; --rule: #ccc; --ours: #eaf3fb; }}
@media (prefers-color-scheme: dark) {{ :root {{ --rule: #555; --ours: #1d2b38; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }}
th, td {{ border-bottom: 1px solid var(--rule); padding: .35rem .6rem; text-align: right; white-space: nowrap; }}
th {{ white-space: normal; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; }}
.ours {{ background: var(--ours); font-weight: 600; }}
figure {{ margin: 1rem 0; }}
img {{ max-width: 100%; height: auto; background: white; }}
</style>
<body>
{body}
</body>
</html>
"""
