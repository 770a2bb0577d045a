"""What a recorded masked position costs, what its coding loses, and how fast it is read, over a vocabulary of 250,000.

Rows: a head of real shape (contextual hidden rows of a few topics against 250,000 Zipf-biased outputs) gives exact distributions
to compare with. DistillKit's published coding is computed beside ours from its description: ids packed at ceil(log2 V) bits, log
probabilities as a least-squares polynomial of degree 4 plus a square root over the sorted tail, the first ones exact.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from record import Recorder, parser, race

from teacherzoo import Masking, Signals, TokenSpace
from teacherzoo.predictions import Predictions, predict
from teacherzoo.signals_codes import decode_logprobs, encode_logprobs
from teacherzoo.signals_layout import CorpusRecord, Manifest, Terms
from teacherzoo.signals_shard import read_shard
from teacherzoo.signals_write import Row, shard_table, write_shard, write_whole
from teacherzoo.stats import stats
from teacherzoo.verify import bucket_kl

V, H, BLOCK, MASKED = 250_000, 64, 256, 38


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


def write(folder: Path, said: Predictions, k: int) -> Signals:
    """A folder of signals of these predictions, in blocks of BLOCK tokens."""
    generator = np.random.default_rng(0)
    zipf = 1 / np.arange(1, V + 1)
    text = np.searchsorted(
        np.cumsum(zipf / zipf.sum()), generator.random(BLOCK * len(said.ids) // MASKED)
    )
    rows, parts = [], []
    for block, start in enumerate(range(0, len(said.ids), MASKED)):
        stop = min(start + MASKED, len(said.ids))
        positions = np.sort(generator.choice(np.arange(1, BLOCK - 1), stop - start, replace=False))
        token_ids = generator.choice(text, BLOCK).astype(np.uint32)
        rows.append(
            Row(generator.bytes(16), 0, 0, token_ids, positions, positions // 2 + block % 3)
        )
        parts.append(Predictions(*(getattr(said, n)[start:stop] for n in vars(said))))
    space = TokenSpace(mask=4, pad=0, unknown=1, special=(0, 1, 2, 3, 4), size=V)
    terms = Terms(
        teacher="made", weights="", tokenizer="", vocabulary_size=V, k=k, temperatures=(2.0, 4.0), masking=Masking(),
        space=space, draws=1, block_length=BLOCK, precision="float32", token_budget=4096, shard_bytes=1,
    )  # fmt: skip
    each = 1024
    shards = tuple(
        write_shard(
            folder, f"en-{at:05d}.parquet", shard_table("en", rows[at : at + each], parts[at : at + each]),
            language="en", metadata={},
        )
        for at in range(0, len(rows), each)
    )  # fmt: skip
    corpus = CorpusRecord(digest="", documents=len(rows), bytes=1)
    manifest = Manifest(terms=terms, corpora={"en": corpus}, shards=shards)
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
    left, right = (torch.from_numpy(np.asarray(one, dtype=np.float64)) for one in (exact, decoded))
    rest = (
        (1 - right.exp().sum(dim=1)).clamp(min=1e-9)
        if tail is None
        else torch.from_numpy(tail.astype(np.float64))
    )
    return bucket_kl(left, right, rest).numpy()


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--positions", type=int, help="masked positions, instead of 3,000 or 40,000")
    arguments = made.parse_args()
    recorder = Recorder("teacherzoo_signals", arguments)
    count = arguments.positions or (3_000 if arguments.quick else 40_000)
    said = rows_like_a_teacher_s(count, 8.0, k=32)
    shape = {"V": V, "positions": count}
    for k, bar in ((8, 40.0), (32, 90.0)):
        kept = cut(said, k)
        with tempfile.TemporaryDirectory() as folder:
            signals = write(Path(folder), kept, k)
            weighed = stats(folder)
            parts = {f"ours: {part}": [size] for part, size in weighed.bytes_per_position.items()}
            together = {"ours, together": [sum(weighed.bytes_per_position.values())]}
            recorder.add(
                f"bytes per masked position, k={k}",
                parts | together,
                unit="B",
                bar={"ours, together": bar},
                shape=shape,
            )

            exact = kept.logprobs.numpy()
            codes, scale, log_kept = encode_logprobs(exact)
            lost = kl(
                exact,
                decode_logprobs(codes, scale, log_kept),
                -np.expm1(log_kept.astype(np.float64)),
            )
            recorder.add(
                f"KL mean, k={k}",
                {"ours": [float(lost.mean())]},
                unit="nat",
                bar={"ours": 1e-5},
                shape=shape,
            )
            recorder.add(
                f"KL worst row, k={k}",
                {"ours": [float(lost.max())]},
                unit="nat",
                bar={"ours": 1e-4},
                shape=shape,
            )

            def decode(signals: Signals = signals) -> None:
                for shard in signals.manifest.shards:
                    read_shard(signals.folder, shard, signals.terms)

            times = race({"ours": decode}, repeats=3)["ours"]
            recorder.add(
                f"positions decoded in a second, k={k}", {"ours": [count / 1e6 / time for time in times]},
                unit="M/s", bar={"ours": 1.0}, at_least=True, shape=shape,
            )  # fmt: skip
    sample = rows_like_a_teacher_s(1000, 8.0, k=128).logprobs.numpy()
    for name, k, head in (
        ("k=128, 16 exact, degree 4", 128, 16),
        ("k=50, 1 exact, degree 4", 50, 1),
    ):
        best = -np.sort(-sample, axis=1)[:, :k]
        size, decoded = distillkit(best, head, 4)
        codes, scale, log_kept = encode_logprobs(best)
        mine = kl(
            best, decode_logprobs(codes, scale, log_kept), -np.expm1(log_kept.astype(np.float64))
        )
        recorder.add(
            f"DistillKit's coding, {name}: bytes", {"DistillKit's": [size]}, unit="B", shape=shape
        )
        recorder.add(
            f"DistillKit's coding, {name}: KL mean",
            {"DistillKit's": [float(kl(best, decoded).mean())], "ours at that k": [float(mine.mean())]}, unit="nat", shape=shape,
        )  # fmt: skip
    recorder.close()


if __name__ == "__main__":
    main()
