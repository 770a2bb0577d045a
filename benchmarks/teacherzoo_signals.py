"""What a recorded masked position costs, what its coding loses, and how fast it is read, over a vocabulary of 250,000.

Two kinds of rows. With `--data FOLDER` (its `corpora/LANGUAGE.txt.xz`), those of a teacher over 250,000 pieces on text that it has
not seen; `--teacher FOLDER` names it, and where that folder does not exist yet, it is pretrained there from the data, in about a
quarter of an hour. Without data, made-up rows: a head of real shape, whose 250,000 Zipf-biased outputs point in random directions, so
that no two ids like each other's company.

DistillKit's published coding is computed beside ours from its description: ids packed at ceil(log2 V) bits, log
probabilities as a least-squares polynomial of degree 4 plus a square root over the sorted tail, the first ones exact.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from record import Recorder, parser, race

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from teacherzoo import (
    Corpus,
    Masking,
    PretrainingConfig,
    Signals,
    TokenSpace,
    record,
    stats,
    verify,
)
from teacherzoo.encoders.heads import SplitHead, split_head
from teacherzoo.encoders.predictions import Predictions, predict
from teacherzoo.pretrain.shapes import build_masked_lm
from teacherzoo.pretrain.text import pack, train_tokenizer
from teacherzoo.signals.codes import decode_logprobs, encode_logprobs
from teacherzoo.signals.layout import CorpusRecord, Manifest, RecordingSettings
from teacherzoo.signals.shard import read_shard
from teacherzoo.signals.stats import SignalStats
from teacherzoo.signals.verify import bucket_kl
from teacherzoo.signals.write import Row, shard_table, write_shard, write_whole

V, H, BLOCK, MASKED = 250_000, 64, 256, 38
BARS = {8: 40.0, 32: 90.0}
HELD_OUT = 0.01
SAMPLED = 8192


def rows_like_a_teacher_s(count: int, spread: float, *, k: int) -> Predictions:
    """Predictions at `count` masked rows: Zipf-like frequencies, topics that share words, some rows sure and some not."""
    generator = torch.Generator().manual_seed(0)
    topics = 2000
    bias = -1.0 * torch.log(torch.arange(1, V + 1, dtype=torch.float32) + 20)
    bias = bias[torch.randperm(V, generator=generator)]
    weight = torch.randn(V, H, generator=generator)
    centres = torch.randn(topics, H, generator=generator)
    popularity = 1 / torch.arange(1, topics + 1, dtype=torch.float32)
    topic = torch.multinomial(popularity, count, replacement=True, generator=generator)
    hidden = centres[topic] + 0.5 * torch.randn(count, H, generator=generator)
    sureness = spread * torch.rand(count, 1, generator=generator).sqrt() / math.sqrt(H)
    gold = torch.zeros(count, 1, dtype=torch.int64)
    with torch.inference_mode():
        return predict(hidden * sureness, weight, bias, gold, k=k, temperatures=(2.0, 4.0))


def cut(said: Predictions, k: int) -> Predictions:
    keep = said.logprobs.topk(k, dim=1).indices.sort(dim=1).values
    return Predictions(
        said.ids.gather(1, keep),
        said.logprobs.gather(1, keep),
        said.log_partition,
        said.wanted_logprobs,
    )


def rows_of(said: Predictions, start: int, stop: int) -> Predictions:
    return Predictions(*(column[start:stop] for column in vars(said).values()))


def write(folder: Path, said: Predictions, k: int) -> Signals:
    """A folder of signals of these predictions, in blocks of BLOCK tokens."""
    generator = np.random.default_rng(0)
    zipf = 1 / np.arange(1, V + 1)
    text = np.searchsorted(
        np.cumsum(zipf / zipf.sum()), generator.random(BLOCK * len(said.ids) // MASKED)
    )
    rows = []
    for block, start in enumerate(range(0, len(said.ids), MASKED)):
        stop = min(start + MASKED, len(said.ids))
        positions = np.sort(generator.choice(np.arange(1, BLOCK - 1), stop - start, replace=False))
        token_ids = generator.choice(text, BLOCK).astype(np.uint32)
        rows.append(
            Row(
                generator.bytes(16),
                0,
                0,
                token_ids,
                positions,
                positions // 2 + block % 3,
                np.ones(len(positions), dtype=bool),
            )
        )
    space = TokenSpace(mask=4, pad=0, unknown=1, special=(0, 1, 2, 3, 4), size=V)
    settings = RecordingSettings(
        teacher="made", weights="", tokenizer="", vocabulary_size=V, sampler="topk", draws=None, k=k, temperatures=(2.0, 4.0), masking=Masking(),
        space=space, mask_draws=1, block_length=BLOCK, precision="float32", token_budget=4096, shard_bytes=1,
    )  # fmt: skip
    size = 1024
    shards = tuple(
        write_shard(
            folder, f"en-{at:05d}.parquet",
            shard_table("en", rows[at : at + size], rows_of(said, at * MASKED, (at + size) * MASKED)),
            language="en", metadata={},
        )
        for at in range(0, len(rows), size)
    )  # fmt: skip
    corpus = CorpusRecord(digest="", documents=len(rows), bytes=1)
    manifest = Manifest(settings=settings, corpora={"en": corpus}, shards=shards)
    write_whole(folder / "signals.json", json.dumps(manifest.to_json()).encode())
    return Signals(folder)


def distillkit(logprobs: np.ndarray, exact: int, degree: int) -> tuple[float, np.ndarray]:
    """Bytes per position, and what comes back: sorted log-probabilities, `exact` as bfloat16, the rest from a fit in float64."""
    k = logprobs.shape[1]
    ordered = -np.sort(-logprobs.astype(np.float64), axis=1)
    t = np.linspace(0, 1, k - exact)
    basis = np.stack([t**power for power in range(degree + 1)] + [np.sqrt(t)], axis=1)
    fit = np.linalg.lstsq(basis, ordered[:, exact:].T, rcond=None)[0]
    head = torch.from_numpy(ordered[:, :exact]).bfloat16().double().numpy()
    decoded = np.concatenate([head, (basis @ fit).T], axis=1)
    size = k * math.ceil(math.log2(V)) / 8 + 2 * exact + 4 * basis.shape[1]
    return size, decoded


def kl(exact: np.ndarray, decoded: np.ndarray, tail: np.ndarray | None = None) -> np.ndarray:
    left, right = (
        torch.from_numpy(np.asarray(values, dtype=np.float64)) for values in (exact, decoded)
    )
    rest = (
        (1 - right.exp().sum(dim=1)).clamp(min=1e-9)
        if tail is None
        else torch.from_numpy(tail.astype(np.float64))
    )
    return bucket_kl(left, right, rest).numpy()


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--positions", type=int, help="made-up positions, instead of 3,000 or 40,000")
    made.add_argument(
        "--teacher", type=Path, help="of --data; pretrained into this folder if need be"
    )
    made.add_argument("--languages", nargs="+", default=["de", "en", "hi", "sw", "tr", "zh"])
    made.add_argument("--documents", type=int, default=1500, help="held-out ones of each language")
    arguments = made.parse_args()
    recorder = Recorder("teacherzoo_signals", arguments)
    if arguments.teacher and arguments.data:
        real_rows(recorder, arguments)
    else:
        made_up_rows(recorder, arguments)
    recorder.close()


def real_rows(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Record held-out text for each bar's k, weigh it, ask the teacher again about all of it, and read it."""
    if not arguments.teacher.exists():
        raise_large_teacher(arguments.data / "corpora", arguments.teacher)
    corpora = [
        Corpus(
            language,
            arguments.data / "corpora" / f"{language}.txt.xz",
            part="held_out",
            held_out_share=HELD_OUT,
            limit=100 if arguments.quick else arguments.documents,
        )
        for language in arguments.languages
    ]
    for k, bar in BARS.items():
        with tempfile.TemporaryDirectory() as folder:
            manifest = record(arguments.teacher, corpora, folder, k=k)
            count = sum(shard.positions for shard in manifest.shards)
            weighed = stats(folder)
            mean = {
                name: sum(
                    getattr(part, name) * part.positions for part in weighed.languages.values()
                )
                / count
                for name in ("loss", "accuracy", "tail")
            }
            shape = {
                "V": manifest.settings.vocabulary_size,
                "positions": count,
                "languages": len(corpora),
                **{f"teacher's {name}": round(value, 4) for name, value in mean.items()},
            }
            asked = verify(folder, arguments.teacher, rows=64 if arguments.quick else 1000)
            report(
                recorder, f"a teacher's rows, k={k}", weighed, (asked.mean_kl, asked.worst_kl), bar,
                Signals(folder), shape,
            )  # fmt: skip


def report(
    recorder: Recorder,
    what: str,
    weighed: SignalStats,
    kl_mean_and_worst: tuple[float, float],
    bar: float,
    signals: Signals,
    shape: dict[str, object],
) -> None:
    parts = {f"ours: {part}": [size] for part, size in weighed.bytes_per_position.items()}
    together = {"ours, together": [sum(weighed.bytes_per_position.values())]}
    recorder.add(
        f"{what}: bytes per masked position",
        parts | together,
        unit="B",
        bar={"ours, together": bar},
        shape=shape,
    )
    for name, value, most in zip(
        ("mean", "worst row"), kl_mean_and_worst, (1e-5, 1e-4), strict=True
    ):
        recorder.add(
            f"{what}: KL {name}", {"ours": [value]}, unit="nat", bar={"ours": most}, shape=shape
        )
    count = sum(shard.positions for shard in signals.manifest.shards)

    def decode() -> None:
        for shard in signals.manifest.shards:
            read_shard(signals.folder, shard, signals.settings)

    times = race({"ours": decode}, repeats=5)["ours"]
    recorder.add(
        f"{what}: positions decoded in a second", {"ours": [count / 1e6 / time for time in times]},
        unit="M/s", bar={"ours": 1.0} if signals.settings.k == 8 else None, at_least=True, shape=shape,
    )  # fmt: skip


def made_up_rows(recorder: Recorder, arguments: argparse.Namespace) -> None:
    """Weigh, compare with the exact rows, and read; DistillKit's coding on the same ones."""
    count = arguments.positions or (3_000 if arguments.quick else 40_000)
    said = rows_like_a_teacher_s(count, 8.0, k=32)
    shape = {"V": V, "positions": count}
    for k, bar in BARS.items():
        kept = cut(said, k)
        with tempfile.TemporaryDirectory() as folder:
            signals = write(Path(folder), kept, k)
            exact = kept.logprobs.numpy()
            codes, scale, log_kept = encode_logprobs(exact)
            decoded = decode_logprobs(codes, scale, log_kept)
            lost = kl(exact, decoded, -np.expm1(log_kept.astype(np.float64)))
            report(
                recorder, f"made-up rows, k={k}", stats(folder), (float(lost.mean()), float(lost.max())), bar,
                signals, shape,
            )  # fmt: skip
    sample = rows_like_a_teacher_s(1000, 8.0, k=128).logprobs.numpy()
    for name, k, head in (
        ("k=128, 16 exact, degree 4", 128, 16),
        ("k=50, 1 exact, degree 4", 50, 1),
    ):
        best = -np.sort(-sample, axis=1)[:, :k]
        size, decoded = distillkit(best, head, 4)
        codes, scale, log_kept = encode_logprobs(best)
        decoded_kl = kl(
            best, decode_logprobs(codes, scale, log_kept), -np.expm1(log_kept.astype(np.float64))
        )
        recorder.add(
            f"DistillKit's coding, {name}: bytes", {"DistillKit's": [size]}, unit="B", shape=shape
        )
        recorder.add(
            f"DistillKit's coding, {name}: KL mean",
            {"DistillKit's": [float(kl(best, decoded).mean())], "ours at that k": [float(decoded_kl.mean())]}, unit="nat", shape=shape,
        )  # fmt: skip


def raise_large_teacher(texts: Path, out: Path, *, steps: int = 1450) -> None:
    """A stock ModernBERT of 3 layers over 250,000 word pieces of all languages in `texts`.

    Each step's softmax runs over its gold pieces and 8,192 sampled ones, logits corrected for how often those are sampled; all
    250,000 would take five times as long. Pieces that a step does not touch keep their rows.
    """
    corpora = [
        Corpus(file.name.split(".")[0], file, part="train", held_out_share=HELD_OUT)
        for file in sorted(texts.glob("*.txt.xz"))
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    plan = PretrainingConfig(vocabulary=V)
    tokenizer = train_tokenizer(corpora, plan, out.with_suffix(".tokenizer.json"), watch=print)
    blocks = np.concatenate(list(pack(corpora, tokenizer, plan.length, part="train").values()))
    counts = np.bincount(blocks.ravel(), minlength=len(tokenizer)) + 0.5
    model = build_masked_lm(plan.shape, tokenizer, seed=0)
    head = split_head(model)
    with torch.no_grad():  # from the start it knows which pieces are frequent
        head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    sampled = 0.5 * counts**0.75 / (counts**0.75).sum() + 0.5 / len(counts)
    until = np.cumsum(sampled)
    log_sampled = torch.from_numpy(np.log(SAMPLED * sampled)).float()
    embedding = model.get_input_embeddings()
    embedding.sparse = True
    rest = [parameter for parameter in model.parameters() if parameter is not embedding.weight]
    optimizers = [torch.optim.SparseAdam([embedding.weight]), torch.optim.AdamW(rest)]
    random = np.random.default_rng(0)
    special = torch.tensor(tokenizer.all_special_ids)
    model.train()
    for step in range(steps):
        gold = torch.from_numpy(
            blocks[random.integers(0, len(blocks), plan.batch)].astype(np.int64)
        )
        asked = torch.from_numpy(random.random(gold.shape)) < plan.mask_rate
        asked &= ~torch.isin(gold, special)
        dice = torch.from_numpy(random.random(gold.shape))
        shown = torch.where(asked & (dice < 0.8), tokenizer.mask_token_id, gold)
        any_piece = torch.from_numpy(random.integers(0, len(counts), gold.shape))
        shown = torch.where(asked & (dice > 0.9), any_piece, shown)
        against = torch.from_numpy(np.searchsorted(until[:-1], random.random(SAMPLED)))
        with torch.autocast("cpu", torch.bfloat16):
            rows = head.encoder(shown, attention_mask=torch.ones_like(shown)).last_hidden_state
            rows = head.transform(rows[asked])
        loss = sampled_loss(rows.float(), head, gold[asked], against, log_sampled)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            done = step / steps
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 20 * done) * max(0.02, 1 - done)
            optimizer.step()
            optimizer.zero_grad()
    embedding.sparse = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def sampled_loss(
    rows: torch.Tensor,
    head: SplitHead,
    gold: torch.Tensor,
    sampled: torch.Tensor,
    log_sampled: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of the gold pieces against those sampled."""
    look_up = torch.nn.functional.embedding
    against = rows @ look_up(sampled, head.weight, sparse=True).T + head.bias[sampled]
    against = (against - log_sampled[sampled]).masked_fill(sampled == gold[:, None], -torch.inf)
    gold_logits = (rows * look_up(gold, head.weight, sparse=True)).sum(1) + head.bias[gold]
    return (torch.logsumexp(torch.cat([gold_logits[:, None], against], 1), 1) - gold_logits).mean()


if __name__ == "__main__":
    main()
