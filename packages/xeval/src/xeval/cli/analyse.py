"""The commands that judge what was measured: compare, cost, report."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from xeval.cli import options as o
from xeval.cli.console import one_sentence, progress, table_console
from xeval.statistics.display_names import choose
from xeval.statistics.result import Result
from xeval.statistics.results_file import read_results, require_no_folder


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (compare, cost, report):
        app.command()(command)


def compare(
    a: Annotated[
        str, typer.Argument(help="A model, as the results name it; with --mteb a folder.")
    ],
    b: Annotated[str, typer.Argument(help="Another.")],
    results: Annotated[
        list[Path] | None, typer.Argument(help="Results files, JSON Lines; none with --mteb.")
    ] = None,
    mteb: Annotated[
        bool,
        typer.Option(
            "--mteb", help="A and B are folders with results of mteb; tests are over tasks."
        ),
    ] = False,
    task: o.Tasks = None,
    metric: o.Metrics = None,
    protocol: o.Protocols = None,
    source: o.Source = None,
    level: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Accepted rate of false 'better'.")
    ] = 0.05,
    resamples: Annotated[int, typer.Option(min=100, help="Of bootstrap and permutation.")] = 10_000,
    as_json: o.Json = False,
) -> None:
    """Is A better than B? Paired tests per language, corrected for their number, with a verdict in words."""
    if mteb:
        _refuse_beside_mteb(
            {"RESULTS": results, "--metric": metric, "--protocol": protocol, "--source": source}
        )
        _compare_mteb(a, b, task or (), level, resamples, as_json)
        return
    if not results:
        raise typer.BadParameter("expected a results file after the two models, or --mteb")
    with one_sentence():
        from xeval.statistics.compare import compare as compare_models
        from xeval.statistics.metrics import metric_of

        chosen = _chosen(results, task, metric, protocol, source)
        comparisons = compare_models(chosen, a, b, level=level, resamples=resamples)
    if as_json:
        typer.echo(
            json.dumps([asdict(comparison) for comparison in comparisons], ensure_ascii=False)
        )
        return
    from rich.text import Text

    console = table_console()
    for comparison in comparisons:
        sections = [comparison.languages, (comparison.mean,) if comparison.mean else ()]
        score = metric_of(comparison.metric)
        title = f"{comparison.task}, {comparison.metric} ({score.unit})"
        heads = ("language", "items", a, b)
        table = _table(title, heads, sections, score.digits)
        console.print(table if any(sections) else Text(title))
        _print_lines(console, [f"not compared: {line}" for line in comparison.left_out])
    _print_lines(console, [_explained(comparisons, level)])


def _refuse_beside_mteb(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value:
            raise typer.BadParameter(f"{name} does not go with --mteb, which reads two folders")


def _compare_mteb(
    a: str, b: str, tasks: Sequence[str], level: float, resamples: int, as_json: bool
) -> None:
    with one_sentence():
        from xeval.statistics.compare_mteb import compare_mteb

        compared = compare_mteb(Path(a), Path(b), tasks=tasks, level=level, resamples=resamples)
    if as_json:
        typer.echo(json.dumps(asdict(compared), ensure_ascii=False))
        return
    console = table_console()
    if compared.all_tasks is None:
        scores = [
            f"{s.task}: {compared.a} {s.score_a:.2f}, {compared.b} {s.score_b:.2f}"
            for s in compared.tasks
        ]
        _print_lines(console, scores)
    else:
        sections = [(compared.all_tasks,), compared.kinds, compared.languages]
        heads = ("", "tasks", compared.a, compared.b)
        console.print(_table("mteb, main score", heads, sections, digits=2))
    _print_lines(console, [f"not compared: {line}" for line in compared.left_out])
    _print_lines(console, compared.notes)
    _print_lines(
        console,
        [
            "A task of several subsets is their mean. Interval: a bootstrap over tasks. p: from the signs of the differences of "
            "tasks, exchanged; corrected by Holm's method over the kinds of tasks, and over the languages; all tasks are a test "
            f"of their own. 'better': p below {level:g}. could show: the true difference that would be found four times in five."
        ],
    )


def _print_lines(console: Any, lines: Sequence[str]) -> None:
    from rich.text import Text

    for line in lines:
        console.print(Text(line))  # not a string: a name in square brackets is no markup


def _table(title: str, heads: Sequence[str], sections: Sequence[Sequence[Any]], digits: int) -> Any:
    """A table of comparisons; `heads` are those of place, n and the two models, `digits` the decimals of figures."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for number, head in enumerate(
        [*heads, "difference", "95 % interval", "could show", "p", "verdict"]
    ):
        justify: Any = "left" if number in (0, 8) else "right"
        table.add_column(Text(head), justify=justify, overflow="fold")
    for section in sections:
        for row in section:
            cells = (
                row.place, str(row.n), f"{row.score_a:.{digits}f}", f"{row.score_b:.{digits}f}",
                f"{row.difference:+.{digits}f}", f"{row.low:+.{digits}f} to {row.high:+.{digits}f}",
                "–" if row.detectable is None else f"{row.detectable:.{digits}f}",
                f"{row.p_holm:.4f}", row.verdict.partition(";")[0],
            )  # fmt: skip
            table.add_row(*map(Text, cells))
        table.add_section()
    return table


def _explained(comparisons: Sequence[Any], level: float) -> str:
    rows = [row for comparison in comparisons for row in comparison.languages]
    several = any(max(row.seeds_a, row.seeds_b) > 1 for row in rows)
    one_sided = any(
        min(row.seeds_a, row.seeds_b) == 1 < max(row.seeds_a, row.seeds_b) for row in rows
    )
    about = (
        "the larger of two: exchanging the models item by item, and a bootstrap over items with the spread between seeds"
        if several
        else "from exchanging the models item by item; with one seed each, verdicts are about these two models alone"
    )
    if one_sided:
        about += ", a model with one seed being taken to vary as the other does"
    return (
        f"p: {about}; corrected over the languages of a task by Holm's method, the mean being a test of its own. "
        f"'better': p below {level:g}. could show: the true difference that would be found four times in five."
    )


def cost(
    model: Annotated[str, typer.Argument(help="A model folder.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples per pass.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Sub-words per example.")] = 128,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(min=3, help="Timed passes.")] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Append to this file, for report --costs.")
    ] = None,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """What a model costs: parameters, bytes, operations and time per example."""
    with one_sentence(), progress(quiet=quiet) as watch:
        from xeval.cost.measure import append_cost
        from xeval.cost.measure import cost as measure

        if out is not None:
            require_no_folder(out)
        priced = measure(
            model, threads=threads, batch=batch, length=length, device=device, dtype=dtype,
            repeats=repeats, watch=watch,
        )  # fmt: skip
        if out is not None:
            append_cost(out, priced)
    if as_json:
        typer.echo(json.dumps({**asdict(priced), **priced.columns()}, ensure_ascii=False))
        return
    split = priced.parameters
    head = "with language-model head" if priced.with_head else "without head"
    ran = f"with {', '.join(priced.modules)}" if priced.modules else head
    typer.echo(
        f"{model}: {split.architecture}\n"
        f"  parameters   {split.total:>15,}\n"
        f"    embeddings {split.embeddings:>15,}   ({split.vocabulary:,} of them one row per piece)\n"
        f"    layers     {split.body:>15,}\n"
        f"    head       {split.head:>15,}\n"
        f"  weights      {priced.bytes:>15,} bytes on disk\n"
        f"  operations   {priced.flops:>15,} per example of {length} sub-words (a multiply-add is two)\n"
        f"  latency      {priced.latency_ms:>15.2f} ms ({priced.latency_low_ms:.2f} to {priced.latency_high_ms:.2f}, "
        f"20th to 80th percentile of {repeats} passes)\n"
        f"  throughput   {priced.throughput:>15.1f} examples/s\n"
        f"  measured: encoder {ran}, batch {batch}, {_of_threads(priced.threads)}, {priced.device}, {dtype}"
    )


def _of_threads(count: int) -> str:
    return f"{count} thread" + ("" if count == 1 else "s")


def report(
    results: o.Files,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The HTML page; report.html if nothing else is asked for."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    plots: Annotated[Path | None, typer.Option(help="A folder for PNG and SVG pictures.")] = None,
    costs: Annotated[
        Path | None, typer.Option(help="A file written by `xeval cost --out`.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "xeval report",
    task: o.Tasks = None,
    metric: o.Metrics = None,
    protocol: o.Protocols = None,
    source: o.Source = None,
    as_json: o.Json = False,
) -> None:
    """Tables, heatmaps and plots from results, in one page that needs nothing else."""
    with one_sentence():
        from xeval import report as pages
        from xeval.cost.measure import read_costs, with_costs

        chosen = _chosen(results, task, metric, protocol, source)
        if costs is not None:
            chosen = with_costs(chosen, read_costs(costs))
        written = []
        if out is not None or not (markdown or plots or as_json):
            out = out or Path("report.html")
            pages.write_report(chosen, out, title=title)
            written.append(out)
        if plots is not None:
            written += pages.write_plots(chosen, plots)
        if markdown:
            typer.echo(pages.markdown(chosen, title=title), nl=False)
        if as_json:
            typer.echo(json.dumps(_as_rows(chosen), ensure_ascii=False))
    for path in written:
        typer.echo(f"wrote {path}", err=markdown or as_json)


def _as_rows(results: Sequence[Result]) -> dict[str, Any]:
    from xeval.statistics.summary import summarise

    summary = summarise(results)
    return {
        "means": [
            {"task": t.task, "metric": t.metric, "languages": t.common, **asdict(row)}
            for t in summary.tables
            for row in t.rows
        ],
        "scores": [
            {"task": t.task, "metric": t.metric, "model": model, "place": place, **asdict(cell)}
            for t in summary.tables
            for (model, place), cell in t.cells.items()
        ],
        "costs": summary.costs,
        "missing": summary.missing,
    }


def _chosen(
    files: Sequence[Path],
    tasks: Sequence[str] | None,
    metrics: Sequence[str] | None,
    protocols: Sequence[str] | None,
    source: str | None,
) -> list[Result]:
    return choose(
        read_results(*files),
        tasks=tasks or (),
        metrics=metrics or (),
        protocols=protocols or (),
        source=source,
    )
