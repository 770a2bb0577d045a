"""Recording with sampler `random`: reproducible, resumable, small, and in the mean the teacher's distribution."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from teacherzoo import (
    Corpus,
    Masking,
    RecordError,
    Signals,
    SignalsError,
    record,
    stats,
    verify,
    verify_samples,
)
from teacherzoo.cli.app import app
from vocabmerge import map_of_lists

OPTIONS: dict[str, Any] = {"block_length": 32, "shard_bytes": 8000}
LIMIT = 60


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "run.json"}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, teacher: Path, text: Path) -> Path:
    """A finished recording of 12 draws in several shards; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("drawn")
    record(teacher, [Corpus("en", text)], folder, sampler="random", **OPTIONS)
    return folder


def test_weights_of_a_position_sum_to_one_and_leave_no_tail(drawn: Path) -> None:
    signals = Signals(drawn)
    batch = signals.batch(range(len(signals)))

    assert (signals.settings.sampler, signals.settings.draws, signals.settings.k) == ("random", 12, None)  # fmt: skip
    assert batch.topk_ids.shape[1] == 12
    torch.testing.assert_close(batch.topk_logprobs.exp().sum(dim=1), torch.ones(len(batch.labels)))
    assert (batch.topk_logprobs.isneginf() == (batch.topk_ids < 0)).all()
    assert (batch.tail == 0).all()
    assert batch.log_partition == {}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_mean_weights_are_the_teachers_probabilities(
    drawn: Path, teacher: Path, text: Path, tmp_path: Path, temperature: float
) -> None:
    size = Signals(drawn).settings.vocabulary_size
    corpus = Corpus("en", text, limit=LIMIT)
    record(teacher, [corpus], tmp_path / "dense", k=size, temperatures=(2.0,), **OPTIONS)
    record(
        teacher, [corpus], tmp_path / "random", sampler="random", draws=20, temperatures=(temperature,), **OPTIONS
    )  # fmt: skip
    dense, random = Signals(tmp_path / "dense"), Signals(tmp_path / "random")
    rows = range(len(dense))
    exact, sampled = dense.batch(rows), random.batch(rows)

    log_p = exact.topk_logprobs.double() / temperature
    if temperature != 1.0:
        log_p -= exact.log_partition[temperature][:, None].double()
        assert (sampled.log_partition[temperature] == 0).all()
    p = torch.zeros(len(log_p), size, dtype=torch.float64).scatter_(1, exact.topk_ids, log_p.exp())
    weights = torch.zeros_like(p).scatter_add_(
        1, sampled.topk_ids.clamp(min=0), (sampled.topk_logprobs.double() / temperature).exp()
    )

    assert torch.equal(exact.labels, sampled.labels)
    torch.testing.assert_close(exact.teacher_loss, sampled.teacher_loss)
    # Counts are sums of independent draws: beyond Bernstein's bound lies one id in a million.
    distance = 20 * (weights - p).sum(dim=0)
    variance = 20 * (p * (1 - p)).sum(dim=0)
    level = math.log(2e6)
    assert (distance.abs() < (2 * level * variance).sqrt() + level / 3).all()
    frequent = 20 * p.sum(dim=0) > 5
    assert 0.6 < float((distance**2 / variance)[frequent].mean()) < 1.5


def test_batches_of_one_block_and_of_eight_draw_the_same(
    drawn: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    corpus = Corpus("en", text, limit=LIMIT)
    for budget in (32, 8 * 32):
        record(teacher, [corpus], tmp_path / str(budget), sampler="random", token_budget=budget, **OPTIONS)  # fmt: skip

    single, several = (
        pq.read_table(tmp_path / budget / "en-00000.parquet") for budget in ("32", "256")
    )

    for column in ("sampled_ids", "sampled_counts", "positions"):
        assert single[column] == several[column]


@pytest.mark.parametrize("lost", [["signals.json"], ["en-00001.parquet", "signals.json"]])
def test_a_broken_off_recording_is_finished_to_the_byte(
    drawn: Path, teacher: Path, text: Path, tmp_path: Path, lost: list[str]
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "copy"))
    for name in lost:
        (folder / name).unlink()

    record(teacher, [Corpus("en", text)], folder, sampler="random", **OPTIONS)

    assert contents(folder) == contents(drawn)


def test_pyarrow_alone_reads_the_draws(drawn: Path) -> None:
    draws = json.loads((drawn / "signals.json").read_text())["terms"]["draws"]
    table = pq.read_table(drawn / "en-00000.parquet")
    batch = Signals(drawn).batch(range(len(table)))

    position = 0
    for row in table.to_pylist():
        ids, counts = row["sampled_ids"], row["sampled_counts"]
        assert sum(counts) == draws * len(row["positions"])
        ends = np.cumsum(counts)
        for number in range(len(row["positions"])):
            here = (ends > number * draws) & (ends <= (number + 1) * draws)
            recorded = batch.topk_ids[position][batch.topk_ids[position] >= 0]
            assert np.array(ids)[here].tolist() == recorded.tolist()
            weights = batch.topk_logprobs[position, : len(recorded)].exp()
            np.testing.assert_allclose(np.array(counts)[here] / draws, weights, rtol=1e-6)
            position += 1
    assert "topk_ids" not in table.column_names


def test_a_map_adds_the_weights_of_ids_that_meet_and_counts_those_that_are_lost(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    record(
        teacher, [Corpus("en", text, limit=LIMIT)], tmp_path, sampler="random", temperatures=(2.0,), **OPTIONS
    )  # fmt: skip
    plain = Signals(tmp_path)
    size = plain.settings.space.size
    rows = range(len(plain))
    batch = plain.batch(rows)
    frequent = np.argsort(-np.bincount(batch.topk_ids[batch.topk_ids >= 0].numpy()))
    gone, kept, met = [int(index) for index in frequent if index > 4][:3]
    ids = [[index] for index in range(size)]
    ids[gone], ids[met] = [], [kept]
    mapped = Signals(tmp_path, vocabulary=map_of_lists(ids, student_size=size), max_lost=1.0).batch(
        rows
    )

    def weight(of: Any, index: int) -> torch.Tensor:
        weights = (of.topk_logprobs / 2).exp()
        return torch.where(of.topk_ids == index, weights, 0).sum(dim=1)

    assert (weight(batch, met) > 0).any()
    torch.testing.assert_close(weight(mapped, kept), weight(batch, kept) + weight(batch, met))
    torch.testing.assert_close(mapped.lost, weight(batch, gone))
    torch.testing.assert_close(mapped.tail, mapped.lost)
    assert ((mapped.topk_ids == kept).sum(dim=1) <= 1).all()
    assert (mapped.log_partition[2.0] == 0).all()


def test_verifying_draws_again(drawn: Path, teacher: Path, tmp_path: Path) -> None:
    assert verify_samples(drawn, teacher, rows=40).differing == 0

    folder = Path(shutil.copytree(drawn, tmp_path / "copy"))
    path = folder / "signals.json"
    values = json.loads(path.read_text())
    values["terms"]["masking"]["seed"] = 1
    path.write_text(json.dumps(values))
    assert verify_samples(folder, teacher, rows=40).differing > 0.1


def test_each_way_to_verify_names_the_other(drawn: Path, recording: Path, teacher: Path) -> None:
    with pytest.raises(SignalsError, match="use verify_samples"):
        verify(drawn, teacher)
    with pytest.raises(SignalsError, match="use verify"):
        verify_samples(recording, teacher)


def test_the_command_states_bytes_a_position(teacher: Path, text: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "signals")
    asked = ("record", str(teacher), "--corpus", f"en={text}", "-o", folder, "--sampler", "random")

    recorded = call(*asked, "--draws", "6", "--limit", "40", "--json")
    again = call(*asked, "--draws", "6", "--limit", "40")
    verified = call("verify", folder, str(teacher), "--rows", "10")
    weighed = call("stats", folder)

    signal_stats = stats(folder)
    parts = signal_stats.bytes_per_position
    assert json.loads(recorded.stdout)["bytes_per_position"] == round(sum(parts.values()), 2)
    assert set(parts) == {"positions", "drawn ids", "counts"}
    assert "a masked position, and the text" in again.stdout
    assert "0.00% of the draws differ" in verified.stdout
    assert "6 draws" in weighed.stdout
    assert (signal_stats.sampler, signal_stats.draws, signal_stats.k) == ("random", 6, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--draws", "12"], "draws goes with sampler 'random'"),
        (["--sampler", "random", "--k", "8"], "k goes with sampler 'topk'"),
        (["--sampler", "sorted"], "sampler must be 'topk' or 'random', got 'sorted'"),
        (["--sampler", "random", "--draws", "0"], "draws must be from 1 to 255, got 0"),
        (["--sampler", "random", "--draws", "256"], "draws must be from 1 to 255, got 256"),
        (["--sampler", "random", "--temperature", "2", "--temperature", "4"], "draws at one temperature"),
        (["--sampler", "random", "--temperature", "0"], "A temperature must be above 0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_sentence(
    teacher: Path, text: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    done = call(
        "record", str(teacher), "--corpus", f"en={text}", "-o", str(tmp_path / "out"), *options
    )

    assert done.exit_code == 2
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_sampler_or_number_of_draws_is_refused_by_name(
    drawn: Path, teacher: Path, text: Path
) -> None:
    corpus = Corpus("en", text)
    with pytest.raises(SignalsError, match="draws 12, and now 6"):
        record(teacher, [corpus], drawn, sampler="random", draws=6, **OPTIONS)
    with pytest.raises(SignalsError, match="sampler 'random', and now 'topk'"):
        record(teacher, [corpus], drawn, **OPTIONS)


def test_more_draws_than_a_byte_counts_are_refused(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match="from 1 to 255"):
        record(teacher, [Corpus("en", text)], tmp_path, sampler="random", draws=300)


def test_other_masks_draw_other_ids(drawn: Path, teacher: Path, text: Path, tmp_path: Path) -> None:
    everything = {"rate": 1.0, "mask_share": 1.0, "random_share": 0.0}
    corpus = Corpus("en", text, limit=10)
    for seed in (0, 1):
        record(
            teacher, [corpus], tmp_path / str(seed), sampler="random", masking=Masking(**everything, seed=seed), **OPTIONS
        )  # fmt: skip

    first, second = (Signals(tmp_path / str(seed)).batch(range(8)) for seed in (0, 1))

    assert torch.equal(first.input_ids, second.input_ids)
    assert not torch.equal(first.topk_ids, second.topk_ids)


def test_a_recording_of_the_first_version_is_read_and_gone_on_with(
    recording: Path, teacher: Path, text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "copy"))
    path = folder / "signals.json"
    values = json.loads(path.read_text())
    terms = values["terms"]
    del terms["sampler"]
    terms["draws"] = terms.pop("mask_draws")
    path.write_text(json.dumps(values | {"version": 1}))

    assert Signals(folder).settings == Signals(recording).settings
    record(teacher, [Corpus("en", text)], folder, **OPTIONS)
    assert contents(folder) == contents(recording)
