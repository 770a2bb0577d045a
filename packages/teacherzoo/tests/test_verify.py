import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from teacherzoo import Signals, SignalsError, stats, verify
from teacherzoo.signals.verify import bucket_kl


def test_what_was_recorded_is_what_the_teacher_says(recording: Path, teacher: Path) -> None:
    found = verify(recording, teacher, rows=100)

    assert found.rows == 100
    assert 0 < found.mean_kl < 1e-5
    assert found.mean_kl < found.worst_kl < 1e-4
    assert found.worst_partition_error < 2e-3


def test_the_sample_follows_its_seed(recording: Path, teacher: Path) -> None:
    one, again, other = (verify(recording, teacher, rows=20, seed=seed) for seed in (0, 0, 1))

    assert one == again
    assert one != other


@pytest.mark.parametrize("sample", [{"rows": 0}, {"seed": -1}])
def test_a_sample_that_is_none_is_refused(
    recording: Path, teacher: Path, sample: dict[str, int]
) -> None:
    with pytest.raises(SignalsError, match=f"{next(iter(sample))} must be at least"):
        verify(recording, teacher, **sample)


def test_another_teacher_is_refused(
    recording: Path, tokenizer: Any, tmp_path: Path, make_teacher: Callable[..., Path]
) -> None:
    other = make_teacher(tmp_path, tokenizer, seed=9)

    with pytest.raises(SignalsError, match="was recorded with teacher weights"):
        verify(recording, other)


def test_a_damaged_shard_is_not_verified(recording: Path, teacher: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    path = folder / "en-00000.parquet"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)

    with pytest.raises(SignalsError, match="has checksum"):
        verify(folder, teacher)


def test_the_divergence_is_the_sum_over_ids_and_tail() -> None:
    p = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    q = torch.tensor([[0.4, 0.1]], dtype=torch.float64)

    found = bucket_kl(p.log(), q.log(), torch.tensor([0.5], dtype=torch.float64))

    by_hand = (
        torch.tensor([0.5, 0.2, 0.3]).double()
        * torch.tensor([0.5 / 0.4, 0.2 / 0.1, 0.3 / 0.5]).double().log()
    )
    torch.testing.assert_close(found, by_hand.sum()[None])


def test_stats_are_the_counts_of_the_rows(recording: Path) -> None:
    signals = Signals(recording)
    batch = signals.batch(range(len(signals)))

    found = stats(recording)

    english = found.languages["en"]
    likeliest = batch.topk_ids.gather(1, batch.topk_logprobs.argmax(dim=1, keepdim=True))[:, 0]
    assert english.rows == len(signals)
    assert english.tokens == int(batch.attention_mask.sum())
    assert english.positions == len(batch.labels)
    assert english.accuracy == pytest.approx((likeliest == batch.labels).double().mean().item())
    assert english.tail == pytest.approx(batch.tail.double().mean().item(), rel=1e-6)
    counts = torch.bincount(batch.rows).double()
    loss = (batch.teacher_loss.double() @ counts / counts.sum()).item()
    assert english.loss == pytest.approx(loss, rel=1e-6)


def test_the_parts_weigh_nearly_what_the_files_weigh(recording: Path) -> None:
    found = stats(recording)
    english = found.languages["en"]

    parts = (
        sum(found.bytes_per_position.values()) * english.positions
        + found.bytes_per_token * english.tokens
        + found.bytes_per_row * english.rows
    )

    # The rest is the footers.
    assert 0.5 * found.bytes < parts < found.bytes
    assert found.bytes == sum(path.stat().st_size for path in recording.glob("*.parquet"))
