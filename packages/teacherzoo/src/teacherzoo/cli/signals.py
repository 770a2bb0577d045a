"""The commands about recorded signals: record, verify, stats."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teacherzoo.catalogue.catalogue import local_folder
from teacherzoo.cli.console import Quiet, corpora_named, progress, refusing_plainly
from teacherzoo.processes import rank

if TYPE_CHECKING:
    from teacherzoo.signals.stats import SignalStats

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TeacherName = Annotated[str, typer.Argument(help="Model folder, catalogue name or Hub name.")]
Folder = Annotated[Path, typer.Argument(help="Folder of recorded signals.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("record")(refusing_plainly(record_command))
    app.command("verify")(refusing_plainly(verify_command))
    app.command("stats")(refusing_plainly(stats_command))


def record_command(
    teacher: TeacherName,
    corpus: Annotated[
        list[str],
        typer.Option(
            help="LANGUAGE=FILE, folder or hub:NAME[:CONFIG[:SPLIT]]; once for each language."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the signals.")],
    sampler: Annotated[
        str, typer.Option(help="topk keeps the likeliest ids, random draws ids.")
    ] = "topk",
    k: Annotated[
        int | None, typer.Option(help="Ids that topk keeps per masked position.", show_default="8")
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(help="Ids that random draws per masked position.", show_default="12"),
    ] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            help="Temperatures that the student may use; random draws at one.",
            show_default="2 and 4; random: 1",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="bert or whole_word.")] = "bert",
    rate: Annotated[float, typer.Option(help="Share of tokens masked.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 0,
    mask_draws: Annotated[int, typer.Option(help="Masks per block.")] = 1,
    block_length: Annotated[
        int | None,
        typer.Option(help="Most tokens in a block.", show_default="256, if it reads them"),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16 for the encoder.")
    ] = "float32",
    token_budget: Annotated[int, typer.Option(help="Most tokens in a batch.")] = 4096,
    shard_bytes: Annotated[int, typer.Option(help="Text in a shard.")] = 1 << 20,
    column: Annotated[str, typer.Option(help="Text column of records.")] = "text",
    part: Annotated[str, typer.Option(help="all, train or held_out documents.")] = "all",
    held_out_share: Annotated[float, typer.Option(help="Share of held-out documents.")] = 0.01,
    limit: Annotated[int | None, typer.Option(help="Most documents per language.")] = None,
    offload: Annotated[
        str | None,
        typer.Option(
            help="For large teachers: 'cpu', or a folder on a fast disk (DeepSpeed ZeRO-3)."
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Keep the likelihood of each whole masked word too.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record what a teacher says at masked positions; the same command resumes."""
    corpora = corpora_named(
        corpus, column=column, part=part, held_out_share=held_out_share, limit=limit
    )
    local_folder(teacher)  # refuses what is not there before anything slow is imported
    from teacherzoo.signals.samples import sampler_options

    sampler_options(sampler, k, draws, temperature)  # type: ignore[arg-type]  # checked there
    from teacherzoo.signals.record import record
    from teacherzoo.text.masking import Masking

    masking = Masking(policy=policy, rate=rate, seed=seed)  # type: ignore[arg-type]  # checked there
    with progress(quiet=quiet) as watch:
        manifest = record(
            teacher,
            corpora,
            output,
            sampler=sampler,  # type: ignore[arg-type]  # checked there
            k=k,
            draws=draws,
            temperatures=temperature,
            masking=masking,
            mask_draws=mask_draws,
            block_length=block_length,
            precision=precision,  # type: ignore[arg-type]  # checked there
            token_budget=token_budget,
            shard_bytes=shard_bytes,
            offload=offload,
            word_logprobs=words,
            watch=watch,
        )
    positions = sum(shard.positions for shard in manifest.shards)
    size = sum(shard.bytes for shard in manifest.shards)
    if rank() != 0:
        return
    from teacherzoo.signals.read import Signals
    from teacherzoo.signals.stats import bytes_per_position

    size_of_position = round(sum(bytes_per_position(Signals(output)).values()), 2)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "folder": str(output),
                    "positions": positions,
                    "bytes": size,
                    "bytes_per_position": size_of_position,
                }
            )
        )
    else:
        typer.echo(
            f"{output}: {positions:,} masked positions of {', '.join(manifest.corpora)} in "
            f"{len(manifest.shards)} shards, {size:,} bytes: {size_of_position:.1f} a masked position, and the text"
        )


def verify_command(
    folder: Folder,
    teacher: TeacherName,
    rows: Annotated[int, typer.Option(help="Blocks to ask again.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask the teacher again about a sample and print the worst divergence, or how many draws differ."""
    from teacherzoo.signals.layout import read_manifest

    sampler = read_manifest(folder).settings.sampler  # refuses before anything slow is imported
    local_folder(teacher)
    if sampler == "random":
        from teacherzoo.signals.verify_samples import verify_samples

        with progress(quiet=quiet) as watch:
            again = verify_samples(folder, teacher, rows=rows, seed=seed, watch=watch)
        typer.echo(
            json.dumps(asdict(again))
            if as_json
            else f"{again.positions:,} positions of {again.rows:,} blocks: {again.differing:.2%} of the draws differ, at worst "
            f"{again.worst_differing:.0%} of a position's (document {again.worst_document})"
        )
        return
    from teacherzoo.signals.verify import verify

    with progress(quiet=quiet) as watch:
        verification = verify(folder, teacher, rows=rows, seed=seed, watch=watch)
    if as_json:
        typer.echo(json.dumps(asdict(verification)))
    else:
        typer.echo(
            f"{verification.positions:,} positions of {verification.rows:,} blocks: KL mean {verification.mean_kl:.2e}, "
            f"worst {verification.worst_kl:.2e} (document {verification.worst_document}), "
            f"log partitions within {verification.worst_partition_error:.1e}"
        )


def stats_command(folder: Folder, as_json: Json = False) -> None:
    """Print bytes per position by part, tail mass, and the teacher's accuracy and loss per language."""
    from teacherzoo.signals.layout import read_manifest

    read_manifest(folder)  # refuses before anything slow is imported
    from teacherzoo.signals.stats import stats

    signal_stats = stats(folder)
    typer.echo(
        json.dumps(asdict(signal_stats)) if as_json else _stats_text(signal_stats), nl=as_json
    )


def _stats_text(signal_stats: SignalStats) -> str:
    from rich.console import Console
    from rich.table import Table

    languages = Table("language", "blocks", "tokens", "masked", "accuracy", "loss", "tail")
    for language, language_stats in signal_stats.languages.items():
        languages.add_row(
            language,
            f"{language_stats.rows:,}",
            f"{language_stats.tokens:,}",
            f"{language_stats.positions:,}",
            f"{language_stats.accuracy:.3f}",
            f"{language_stats.loss:.3f}",
            f"{language_stats.tail:.4f}",
        )
    parts = Table("bytes per masked position", "")
    for part, size in signal_stats.bytes_per_position.items():
        parts.add_row(part, f"{size:.2f}")
    parts.add_row("together", f"{sum(signal_stats.bytes_per_position.values()):.2f}", style="bold")
    console = Console(width=100)
    with console.capture() as captured:
        console.print(languages)
        console.print(parts)
        console.print(
            f"{_kept(signal_stats)}; text {signal_stats.bytes_per_token:.2f} bytes per token, names "
            f"{signal_stats.bytes_per_row:.1f} bytes per block; {signal_stats.bytes:,} bytes in all; "
            f"words by the rule {signal_stats.word_rule!r}"
        )
    return captured.get()


def _kept(signal_stats: SignalStats) -> str:
    return (
        f"{signal_stats.draws} draws"
        if signal_stats.sampler == "random"
        else f"k = {signal_stats.k}"
    )
