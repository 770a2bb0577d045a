"""The report as one HTML page: nothing is loaded, no script, light and dark, wide and narrow."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import formatting
from compare_commits import Outcome
from latest import Comparison, Past, Record, goals, newest, past
from questions import ROOT, title


def page(runs: Sequence[Comparison], outcome: Outcome | None = None) -> str:
    """All comparisons, each with the newest run, its goals and its history.

    Args:
        runs: as `read` gives them.
        outcome: of a comparison with a base, shown first.
    """
    shown = newest(runs)
    sections = [
        _question(name, list(group), runs) for name, group in groupby(shown, key=lambda run: run.question)
    ]  # fmt: skip
    missed, met = goals(runs, met=False), goals(runs, met=True)
    lede = (
        f"{len(met)} of {len(met) + len(missed)} goals of the full runs are met. "
        if met or missed
        else ""
    )
    names = dict.fromkeys(run.question for run in shown)
    links = "".join(f'<li><a href="#{_text(name)}">{_text(name)}</a></li>' for name in names)
    body = (
        f"<header><h1>Benchmarks</h1><p class=soft>{lede}Only contenders of one run may be compared; bars are medians "
        "with their 20th to 80th percentile, and a dashed mark is a goal.</p>"
        f"<nav aria-label=Questions><ul>{links}</ul></nav></header>"
        + (_against_base(outcome) if outcome is not None else "")
        + (_missed(missed) if missed else "")
        + "".join(sections)
    )
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, '
        "initial-scale=1\"><meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src "
        '\'unsafe-inline\'; img-src data:"><link rel=icon href="data:,"><title>Benchmarks</title>'
        f"<style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def _question(name: str, comparisons: Sequence[Comparison], runs: Sequence[Comparison]) -> str:
    words = title(ROOT / "benchmarks" / f"{name}.py")
    first = comparisons[0].records[0]
    where = f"{first['machine']}, {first['threads']} threads; {_versions(first)}; {first['date']}, {first['commit']}"
    figures = "".join(_comparison(run, runs) for run in comparisons)
    return (
        f'<section id="{_text(name)}"><h2>{_text(name)}</h2><p>{_text(words)}</p>'
        f"<div class=figures>{figures}</div><p class='soft small'>{_text(where)}</p></section>"
    )


def _versions(record: Record) -> str:
    wanted = ("torch", "transformers", "tokenizers")
    return ", ".join(
        f"{name} {record['versions'][name]}" for name in wanted if name in record["versions"]
    )


def _comparison(run: Comparison, runs: Sequence[Comparison]) -> str:
    relative = run.records[0]["floor"] is not None
    inner = [record["ratio"] if relative else record for record in run.records]
    tops = [spread["high"] for spread in inner]
    tops += [record["bar"] for record in run.records if record["bar"] is not None]
    top = max([*tops, 0.0]) or 1.0
    rows = "".join(
        _row(record, spread, top) for record, spread in zip(run.records, inner, strict=True)
    )
    unit = run.records[0]["unit"]
    scale = f"times {run.records[0]['floor']}" if relative else "" if unit == "x" else unit
    quick = "<span class=tag>quick</span> " if run.quick else ""
    detail = ", ".join(part for part in (formatting.shape(run), scale) if part)
    return (
        f"<figure><figcaption>{quick}{_text(run.what)}<small>{_text(detail)}</small></figcaption>"
        f"<div class=bars>{rows}</div>{_history(run, runs)}</figure>"
    )


def _row(record: Record, inner: Record, top: float) -> str:
    low, middle, high = (1000 * max(0.0, inner[name]) / top for name in ("low", "median", "high"))
    svg = (
        "<svg viewBox='0 0 1000 20' preserveAspectRatio=none aria-hidden=true>"
        f"<rect class={'held' if record['bar'] is not None else 'other'} x=0 y=3 width={middle:.1f} height=14 />"
        f"<line class=whisker x1={low:.1f} x2={high:.1f} y1=10 y2=10 />"
    )
    if record["bar"] is not None:
        mark = 1000 * record["bar"] / top
        svg += f"<line class=goal x1={mark:.1f} x2={mark:.1f} y1=-3 y2=23 />"
    notes = [formatting.spread(record), formatting.memory(record)]
    if record["floor"] not in (None, record["contender"]):
        notes.insert(0, formatting.quantity(record["median"], record["unit"]))
    note = " · ".join(part for part in notes if part)
    return (
        f"<div class=row><span class=name>{_text(record['contender'])}</span>{svg}</svg>"
        f"<span class=figure>{_text(formatting.judged(record))}<small>{_text(note)}</small></span>"
        f"<span class='goal-met'>{_goal_met(record)}</span></div>"
    )


def _goal_met(record: Record) -> str:
    if record["bar"] is None:
        return ""
    word = "met" if record["met"] else "missed"
    return f"<b class={word}>{word}</b> <small>{_text(formatting.goal(record))}</small>"


def _history(run: Comparison, runs: Sequence[Comparison]) -> str:
    lines = []
    for record in run.records:
        points = past(runs, run, record["contender"])
        if len(points) > 1:
            lines.append(
                f"<div class=row><span class=name>{_text(record['contender'])}</span>{_line(points)}"
                f"<span class=figure><small>{points[0].figure:.3g} at {_text(points[0].commit)} → "
                f"{points[-1].figure:.3g} at {_text(points[-1].commit)}</small></span></div>"
            )
    if not lines:
        return ""
    return f"<details><summary>History on this machine</summary>{''.join(lines)}</details>"


def _line(points: Sequence[Past]) -> str:
    top = max(point.figure for point in points) or 1.0
    step = 980 / (len(points) - 1)
    places = [(10 + i * step, 38 - 34 * max(0.0, p.figure) / top) for i, p in enumerate(points)]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return (
        "<svg class=past viewBox='0 0 1000 40' preserveAspectRatio=none aria-hidden=true>"
        f"<polyline points='{drawn}' /></svg>"
    )


def _missed(missed: Sequence[tuple[Comparison, Record]]) -> str:
    items = "".join(
        f'<li><a href="#{_text(run.question)}">{_text(run.question)}</a>: {_text(run.what)} ({_text(formatting.shape(run))}), '
        f"{_text(record['contender'])}: {_text(formatting.judged(record))}, goal {_text(formatting.goal(record))}</li>"
        for run, record in missed
    )
    return f"<section id=missed><h2>Missed</h2><ul>{items}</ul></section>"


def _against_base(outcome: Outcome) -> str:
    order = sorted(outcome.changes, key=lambda change: -change.interval.ratio)
    rows = "".join(
        f"<tr><th>{_text(change.question)}<small>{_text(change.what)} {_text(change.shape)}</small></th>"
        f"<td>{_text(change.contender)}</td><td>{change.interval.ratio:.3f}<small>{change.interval.low:.3f} to "
        f"{change.interval.high:.3f}, {change.interval.rounds} rounds</small></td>"
        f"<td class='{change.change.partition(' ')[0]}'>{_text(change.change)}</td></tr>"
        for change in order
    )
    sentences = "".join(f"<li>{_text(line)}</li>" for line in [*outcome.failed, *outcome.absent])
    return (
        f"<section id=base><h2>Against {_text(outcome.base)} <small>{_text(outcome.commit)}</small></h2>"
        "<div class=scroll><table><thead><tr><th>Comparison</th><th>Contender</th><th>Cost, new to base</th><th></th>"
        f"</tr></thead><tbody>{rows}</tbody></table></div><ul>{sentences}</ul></section>"
    )


def _text(words: object) -> str:
    return html.escape(str(words), quote=True)
