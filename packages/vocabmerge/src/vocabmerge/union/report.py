"""The readable report of a union: one HTML page with its pictures inside."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .55rem; white-space: nowrap; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
th { font-weight: 600; vertical-align: bottom; white-space: normal }
div { overflow-x: auto }
img { max-width: 100% }
.note { color: #666; font-size: 13px }
"""


def report_page(facts: Mapping[str, Any]) -> str:
    """The page for the facts of a union, as `report.json` holds them."""
    names = [teacher["name"] for teacher in facts["teachers"]]
    sections = [
        "<h1>Union of vocabularies</h1>",
        f"<p>{_summary(facts)}</p>",
        "<h2>Teachers</h2>",
        _teachers(facts),
        "<h2>Pieces in common</h2>",
        _picture(
            heatmap(facts["shared"], names), "Shared pieces of each pair of teachers, as counts"
        ),
    ]
    if facts["fidelity"]:
        sections += [
            "<h2>Fidelity of the union tokenizer, on text held out from calibration</h2>",
            _fidelity(facts),
            '<p class="note">A word is a run of letters, marks and digits. It is alike if its tokens have the ids and '
            "the spans that its language's teacher gives them. The tokenizers in languages/ segment as their "
            "teachers do. <em>add_tokens</em> is the first teacher with all other pieces added to it, judged by "
            "spans alone.</p>",
            _picture(_bars(facts), "Words segmented as the teacher does, union beside add_tokens"),
        ]
    sections += ["<h2>What conflicted, what was decided</h2>", _decisions(facts)]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Union of vocabularies</title>"
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def heatmap(matrix: Sequence[Sequence[float]], names: Sequence[str]) -> bytes:
    """A PNG of a square matrix; each cell is coloured by its share of its row's diagonal."""
    import matplotlib.pyplot as plt  # half a second: only when a picture is drawn

    size = 2.2 + 0.8 * len(names)
    figure, axes = plt.subplots(figsize=(size + 0.8, size), layout="constrained")
    shares = [[value / max(row[i], 1) for value in row] for i, row in enumerate(matrix)]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            shade = "white" if shares[i][j] > 0.6 else "black"
            axes.text(j, i, f"{value:,}", ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the row's vocabulary", shrink=0.8)
    drawn = _png(figure)
    plt.close(figure)
    return drawn


def _bars(facts: Mapping[str, Any]) -> bytes:
    import matplotlib.pyplot as plt

    codes = list(facts["fidelity"])
    figure, axes = plt.subplots(
        figsize=(max(5.0, 1.5 + 1.1 * len(codes)), 3.2), layout="constrained"
    )
    union = [100 * facts["fidelity"][code]["words_alike"] for code in codes]
    added = [100 * facts["add_tokens"][code]["words_cut_alike"] for code in codes]
    for shift, values, label, colour in (
        (-0.2, union, "union", "#2166ac"),
        (0.2, added, "add_tokens", "#bbbbbb"),
    ):
        bars = axes.bar(
            [n + shift for n in range(len(codes))], values, width=0.38, label=label, color=colour
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(codes)), codes)
    axes.set_ylim(0, 112)
    axes.set_ylabel("% of words")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = _png(figure)
    plt.close(figure)
    return drawn


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _picture(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'


def _summary(facts: Mapping[str, Any]) -> str:
    family = facts["family"]
    text = (
        f"{facts['size']:,} rows, {family}"
        + (" over several families" if facts["mixed"] else "")
        + f", special tokens as in {'BERT' if facts['convention'] == 'bert' else 'RoBERTa'}."
    )
    if facts["language_only_rows"]:
        text += f" {facts['language_only_rows']:,} rows are reached by language tokenizers alone."
    if facts["placeholder_rows"]:
        text += f" {facts['placeholder_rows']:,} rows are padding."
    return text


def _teachers(facts: Mapping[str, Any]) -> str:
    rows = [
        [
            teacher["name"],
            teacher["family"],
            " ".join(teacher["languages"]),
            f"{teacher['size']:,}",
            f"{teacher['one_to_one']:,}",
            f"{teacher['one_to_several']:,}",
            f"{teacher['none']:,}",
        ]
        for teacher in facts["teachers"]
    ]
    return _table(
        ["teacher", "family", "languages", "ids", "one to one", "one to several", "none"], rows
    )


def _fidelity(facts: Mapping[str, Any]) -> str:
    rows = []
    for code, shares in facts["fidelity"].items():
        ratio = shares["tokens_per_word"] / max(shares["teacher_tokens_per_word"], 1e-12)
        rows.append(
            [
                code,
                f"{shares['words']:,}",
                _percent(shares["words_alike"]),
                _percent(shares["words_cut_alike"]),
                _percent(shares["sentences_alike"]),
                f"{shares['tokens_per_word']:.3f}",
                f"{shares['teacher_tokens_per_word']:.3f}",
                f"{100 * (ratio - 1):+.1f} %",
                _percent(shares["unknown"], 3),
                _percent(shares["teacher_unknown"], 3),
                _percent(facts["add_tokens"][code]["words_cut_alike"]),
                f"{facts['add_tokens'][code]['tokens_per_word']:.3f}",
            ]
        )
    heads = [
        "language",
        "words",
        "words alike",
        "spans alike",
        "sentences alike",
        "tokens per word",
        "teacher's",
        "difference",
        "unknown",
        "teacher's",
        "add_tokens: spans alike",
        "add_tokens: tokens per word",
    ]
    return _table(heads, rows)


def _decisions(facts: Mapping[str, Any]) -> str:
    lines = [f"Normalizers differ in {conflict}." for conflict in facts["conflicts"]]
    if facts["conflicts"]:
        lines.append(f"Policy: {facts['normalizer']}.")
    lines += [f"{note}." for note in facts["notes"]]
    if facts["trials"]:
        tried = ", ".join(f"{cut} {_percent(share)}" for cut, share in facts["trials"].items())
        lines.append(
            f"Text is cut with {facts['cut']!r}; words alike before calibration, mean over languages: {tried}."
        )
    if not lines:
        lines = ["Nothing conflicted."]
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
