"""What recording adds to the teacher's own work, and whether reading keeps a student fed; BERT-base proportions, V=250,000.

One run, interleaved. The floor is what no recorder can avoid: the encoder's forward pass and the head's product on masked rows.
Beside it, recording to disk (masks, batches, top k, partitions, coding, Parquet), and the way of those who take logits at all
positions and cut afterwards.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from record import Recorder, parser, race

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import BertConfig, BertForMaskedLM  # offline first

from teacherzoo import Masking, Signals, TokenSpace
from teacherzoo.encoders.heads import split_head
from teacherzoo.encoders.inference import MaskedBlock, PlainEngine, predict_blocks
from teacherzoo.encoders.predictions import Predictions
from teacherzoo.encoders.teachers import Teacher
from teacherzoo.signals.layout import CorpusRecord, Manifest, RecordingSettings
from teacherzoo.signals.write import Row, shard_table, write_shard, write_whole
from teacherzoo.text.blocks import Block
from teacherzoo.text.masking import corrupt, masked_positions

K, TEMPERATURES = 8, (2.0, 4.0)
PIECES, LAYERS = 250_000, 12
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def teacher_of(config: BertConfig) -> Teacher:
    torch.manual_seed(0)
    model = BertForMaskedLM(config).eval()
    space = TokenSpace(mask=4, pad=0, unknown=1, special=(0, 1, 2, 3, 4), size=config.vocab_size)
    return Teacher(
        name="made", folder=Path(), model=model, head=split_head(model), backend=None, space=space,
        max_length=512, weights_digest="", tokenizer_digest="",
    )  # fmt: skip


def blocks(count: int, length: int, size: int) -> list[Block]:
    generator = np.random.default_rng(0)
    words = np.concatenate([[-1], np.arange(length - 2), [-1]]).astype(np.int32)
    return [
        Block(
            generator.bytes(16),
            0,
            generator.integers(5, size, length).astype(np.uint32),
            words,
            length - 2,
            words >= 0,
        )
        for _ in range(count)
    ]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    recorder = Recorder("teacherzoo_record", arguments)
    size, layers = PIECES, LAYERS
    count, length, repeats = (4, 128, 3) if arguments.quick else (8, 256, 5)
    if DEVICE == "cuda" and not arguments.quick:
        count = 32
    config = BertConfig(vocab_size=size, num_hidden_layers=layers)
    teacher = teacher_of(config)
    engine = PlainEngine(teacher)
    masking = Masking()
    some = blocks(count, length, size)
    pad = teacher.space.pad

    def mask_all() -> tuple[list[Row], list[MaskedBlock]]:
        rows, masked = [], []
        for block in some:
            where = masked_positions(block, masking, space=teacher.space, draw=0)
            gold = block.token_ids[where]
            shown = corrupt(
                gold, where, documents=block.document, parts=np.array([0]), draws=np.array([0]),
                counts=np.array([len(where)]), masking=masking, space=teacher.space,
            )  # fmt: skip
            inputs = block.token_ids.copy()
            inputs[where] = shown
            rows.append(
                Row(
                    block.document,
                    0,
                    0,
                    block.token_ids,
                    where,
                    block.words[where],
                    block.whole[where],
                )
            )
            masked.append(MaskedBlock(inputs, where, gold[:, None].astype(np.int64), "made"))
        return rows, masked

    _, fixed = mask_all()
    input_ids = torch.from_numpy(np.stack([q.input_ids for q in fixed]).astype(np.int64))
    mask = torch.ones_like(input_ids)
    cells = torch.from_numpy(
        np.concatenate([q.positions + n * length for n, q in enumerate(fixed)])
    )

    @torch.no_grad()
    def bare() -> None:
        hidden = engine.hidden_rows(input_ids, mask, cells)
        torch.nn.functional.linear(hidden, teacher.head.weight, teacher.head.bias)

    @torch.no_grad()
    def everywhere() -> None:
        inputs = {"input_ids": input_ids.to(DEVICE), "attention_mask": mask.to(DEVICE)}
        logits = teacher.model(**inputs).logits
        logits.log_softmax(dim=-1).topk(K, dim=-1)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def recording() -> None:
            rows, masked = mask_all()
            predictions = predict_blocks(
                engine,
                masked,
                pad=pad,
                token_budget=count * length,
                k=K,
                temperatures=TEMPERATURES,
            )
            write_shard(
                folder,
                "en-00000.parquet",
                shard_table("en", rows, predictions),
                language="en",
                metadata={},
            )

        times = race(
            {"forward + head on masked rows": bare, "recording": recording, "logits everywhere + top k": everywhere},
            repeats=repeats,
        )  # fmt: skip
        shape = {
            "V": size,
            "layers": layers,
            "blocks": count,
            "length": length,
            "masked": len(cells),
        }
        recorder.add(
            "recording a batch", times, unit="s", floor="forward + head on masked rows",
            bar={"recording": 1 / 0.85}, shape=shape,
        )  # fmt: skip
        recorder.add(
            "recording beside logits everywhere",
            {name: times[name] for name in ("recording", "logits everywhere + top k")},
            unit="s", floor="recording", bar={"logits everywhere + top k": 2.0}, at_least=True, shape=shape,
        )  # fmt: skip

        reading_beside_training(recorder, teacher, folder, some, mask_all, engine, repeats)
    recorder.close()


def reading_beside_training(
    recorder: Recorder,
    teacher: Teacher,
    folder: Path,
    some: list[Block],
    mask_all: Callable[[], tuple[list[Row], list[MaskedBlock]]],
    engine: PlainEngine,
    repeats: int,
) -> None:
    """A student's step on a batch, and reading that batch: decoding its share of a shard, and gathering it."""
    signal_rows, masked = mask_all()
    predictions = predict_blocks(
        engine,
        masked,
        pad=0,
        token_budget=len(some) * 256,
        k=K,
        temperatures=TEMPERATURES,
    )
    many = 512 // max(8, len(some))
    repeated = Predictions(*(torch.cat([column] * many) for column in vars(predictions).values()))
    shard = write_shard(
        folder,
        "en-00000.parquet",
        shard_table("en", signal_rows * many, repeated),
        language="en",
        metadata={},
    )
    settings = RecordingSettings(
        teacher="made", weights="", tokenizer="", vocabulary_size=teacher.space.size, sampler="topk", draws=None, k=K, temperatures=TEMPERATURES,
        masking=Masking(), space=teacher.space, mask_draws=1, block_length=256, precision="float32", token_budget=1,
        shard_bytes=1,
    )  # fmt: skip
    corpus = CorpusRecord(digest="", documents=1, bytes=1)
    manifest = Manifest(settings=settings, corpora={"en": corpus}, shards=(shard,))
    write_whole(folder / "signals.json", json.dumps(manifest.to_json()).encode())
    small = BertConfig(
        vocab_size=8000,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=768,
    )
    student = BertForMaskedLM(small).to(DEVICE)
    optimizer = torch.optim.AdamW(student.parameters())
    batch_size = 16
    batch = Signals(folder).batch(range(batch_size))
    input_ids, mask, rows, positions, labels = (
        tensor.to(DEVICE)
        for tensor in (batch.input_ids, batch.attention_mask, batch.rows, batch.positions, batch.labels)
    )  # fmt: skip

    def train() -> None:
        for _ in range(4):
            hidden = student.bert(input_ids=input_ids % 8000, attention_mask=mask)
            logits = student.cls(hidden.last_hidden_state[rows, positions])
            torch.nn.functional.cross_entropy(logits, labels % 8000).backward()
            optimizer.step()
            optimizer.zero_grad()

    def read() -> None:
        # A fresh reader each time: nothing is decoded yet.
        stream = Signals(folder).stream(batch_size=batch_size, seed=0)
        for _ in stream:
            pass

    times = race({"reading": read, "training": train}, repeats=repeats)
    batches = len(some) * many / batch_size
    per_batch = {
        "reading": [time / batches for time in times["reading"]],
        "training a student of 3 layers": [time / 4 for time in times["training"]],
    }
    recorder.add(
        "a batch of 16 blocks", per_batch, unit="s", floor="reading",
        bar={"training a student of 3 layers": 20.0}, at_least=True, shape={"k": K, "student": "3x192, V=8000"},
    )  # fmt: skip


if __name__ == "__main__":
    main()
