import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from teacherzoo import Corpus, Masking, SignalBatch, Signals, SignalsError, TeacherzooError, record
from teacherzoo.signals.read import _WINDOW


def same(left: SignalBatch, right: SignalBatch) -> bool:
    for name, value in vars(left).items():
        other = getattr(right, name)
        if isinstance(value, torch.Tensor):
            if not torch.equal(value, other):
                return False
        elif isinstance(value, dict):
            if not all(torch.equal(value[key], other[key]) for key in value):
                return False
        elif value != other:
            return False
    return True


def test_signals_are_what_the_whole_model_says(recording: Path, teacher: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(teacher).eval()
    signals = Signals(recording)
    batch = signals.batch(range(40))

    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    logprobs = logits[batch.rows, batch.positions].double().log_softmax(dim=1)

    likeliest = logprobs.topk(8, dim=1).indices.sort(dim=1).values
    assert torch.equal(batch.topk_ids, likeliest)
    exact = logprobs.gather(1, likeliest)
    torch.testing.assert_close(batch.topk_logprobs.double(), exact, atol=0.05, rtol=0)
    torch.testing.assert_close(batch.tail.double(), 1 - exact.exp().sum(dim=1), atol=1e-3, rtol=0)
    for temperature, recorded in batch.log_partition.items():
        wanted = torch.logsumexp(logprobs / temperature, dim=1)
        torch.testing.assert_close(recorded.double(), wanted, atol=1e-3, rtol=0)
    loss = -logprobs.gather(1, batch.labels[:, None])[:, 0]
    for row in range(40):
        mine = loss[batch.rows == row].mean().item()
        assert batch.teacher_loss[row].item() == pytest.approx(mine, abs=1e-4)


def test_only_masked_positions_differ_from_the_text(recording: Path) -> None:
    batch = Signals(recording).batch(range(50))

    differs = (batch.input_ids != batch.token_ids).nonzero().tolist()

    masked = set(zip(batch.rows.tolist(), batch.positions.tolist(), strict=True))
    assert {tuple(cell) for cell in differs} <= masked
    assert len(differs) > 0.7 * len(masked)
    assert torch.equal(batch.labels, batch.token_ids[batch.rows, batch.positions])


def test_any_row_is_the_same_alone_and_in_company(recording: Path) -> None:
    signals = Signals(recording)
    together = signals.batch([3, len(signals) - 1, 0])

    for place, index in enumerate([3, len(signals) - 1, 0]):
        alone = signals[index]
        length = int(alone.attention_mask.sum())
        assert alone.documents == [together.documents[place]]
        assert torch.equal(alone.token_ids[0], together.token_ids[place, :length])
        assert torch.equal(alone.topk_logprobs, together.topk_logprobs[together.rows == place])


def test_the_stream_holds_every_row_once(recording: Path) -> None:
    signals = Signals(recording)

    for seed in (None, 0, 1):
        assert sorted(signals.order(seed=seed).tolist()) == list(range(len(signals)))


def test_shuffling_follows_its_seed_and_mixes_shards(recording: Path) -> None:
    signals = Signals(recording)
    assert len(signals.manifest.shards) > 1

    first, again, other = (signals.order(seed=seed).tolist() for seed in (1, 1, 2))

    assert first == again
    assert first != other
    shards = np.searchsorted(signals._starts, first[:50], side="right")
    assert len(set(shards.tolist())) == min(_WINDOW, len(signals.manifest.shards))


def test_shuffling_needs_few_shards_at_a_time(tmp_path: Path, teacher: Path, text: Path) -> None:
    record(teacher, [Corpus("en", text)], tmp_path, block_length=32, shard_bytes=1000)
    signals = Signals(tmp_path)

    shards = np.searchsorted(signals._starts, signals.order(seed=3), side="right")

    # Each shard's rows lie together with those of at most three others.
    for shard in np.unique(shards):
        span = np.flatnonzero(shards == shard)
        assert len(np.unique(shards[span[0] : span[-1] + 1])) <= _WINDOW


def test_a_stopped_stream_goes_on_where_it_was(recording: Path) -> None:
    signals = Signals(recording)
    whole = list(signals.stream(batch_size=16, seed=5))

    rest = list(signals.stream(batch_size=16, seed=5, start=48))

    assert len(rest) == len(whole) - 3
    assert all(same(left, right) for left, right in zip(whole[3:], rest, strict=True))


def test_workers_change_nothing(recording: Path) -> None:
    signals = Signals(recording)

    alone = list(signals.stream(batch_size=64, seed=5))
    helped = list(signals.stream(batch_size=64, seed=5, workers=2))

    assert len(alone) == len(helped)
    assert all(same(left, right) for left, right in zip(alone, helped, strict=True))


def test_several_draws_mask_the_same_block_differently(
    tmp_path: Path, teacher: Path, text: Path
) -> None:
    corpus = Corpus("en", text, limit=20)
    record(teacher, [corpus], tmp_path, mask_draws=3, block_length=32, masking=Masking(rate=0.3))
    signals = Signals(tmp_path)
    batch = signals.batch(range(3))

    assert batch.draws.tolist() == [0, 1, 2]
    assert len(set(batch.documents)) == 1
    assert torch.equal(batch.token_ids[0], batch.token_ids[2])


def test_rows_are_found_by_language(tmp_path: Path, teacher: Path, text: Path) -> None:
    corpora = [Corpus("en", text, limit=20), Corpus("de", text, limit=10)]
    record(teacher, corpora, tmp_path, block_length=32)
    signals = Signals(tmp_path)

    assert set(signals.batch(signals.rows("de")).languages) == {"de"}
    assert len(signals.order(languages=["de"])) == len(signals.rows("de")) < len(signals)
    with pytest.raises(SignalsError, match="holds de, en, but no 'fi'"):
        signals.rows("fi")


@pytest.fixture
def copy(recording: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recording, tmp_path / "copy"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def read_all(folder: Path) -> None:
    signals = Signals(folder)
    for _ in signals.stream(batch_size=64):
        pass


def test_a_truncated_shard_is_named(copy: Path) -> None:
    content = shards(copy)[1].read_bytes()
    shards(copy)[1].write_bytes(content[:-100])

    with pytest.raises(
        SignalsError, match=r"en-00001.parquet has [\d,]+ bytes where [\d,]+ were recorded"
    ):
        read_all(copy)


@pytest.mark.parametrize("place", [10, 0.5, -3])
def test_a_flipped_bit_is_named(copy: Path, place: float) -> None:
    content = bytearray(shards(copy)[0].read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else int(place)] ^= 4
    shards(copy)[0].write_bytes(content)

    with pytest.raises(SignalsError, match=r"en-00000.parquet has checksum"):
        read_all(copy)
    with pytest.raises(SignalsError, match=r"en-00000.parquet has checksum"):
        Signals(copy).check()


def test_a_missing_shard_is_named(copy: Path) -> None:
    shards(copy)[0].unlink()

    with pytest.raises(SignalsError, match=r"en-00000.parquet is missing"):
        Signals(copy)


def test_an_extra_shard_is_named(copy: Path) -> None:
    shutil.copy(shards(copy)[0], copy / "en-00099.parquet")

    with pytest.raises(SignalsError, match=r"en-00099.parquet is not listed"):
        Signals(copy)


def test_an_unfinished_recording_is_no_recording(copy: Path) -> None:
    (copy / "signals.json").unlink()

    with pytest.raises(SignalsError, match=r"has no signals.json, so it holds unfinished"):
        Signals(copy)


def test_a_folder_without_signals_is_named(tmp_path: Path) -> None:
    with pytest.raises(SignalsError, match="no signals"):
        Signals(tmp_path)
    with pytest.raises(SignalsError, match="no such folder"):
        Signals(tmp_path / "nothing")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "teacherzoo signals", "version": 1}', '{"format": "else"}']
)
def test_a_damaged_manifest_is_one_sentence(copy: Path, content: str) -> None:
    (copy / "signals.json").write_text(content)

    with pytest.raises(TeacherzooError, match=r"signals\.json"):
        Signals(copy)


def test_another_version_is_refused(copy: Path) -> None:
    values = json.loads((copy / "signals.json").read_text())
    (copy / "signals.json").write_text(json.dumps(values | {"version": 99}))

    with pytest.raises(
        SignalsError,
        match="expected 'teacherzoo signals' version 2, got 'teacherzoo signals' version 99",
    ):
        Signals(copy)


def test_plain_libraries_open_a_shard(recording: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    path = shards(recording)[0]
    row = Signals(recording)[0]

    with_arrow = pq.read_table(path).to_pylist()[0]
    with_datasets = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", streaming=True
    )

    assert with_arrow["topk_ids"] == row.topk_ids.flatten().tolist()
    assert with_arrow["token_ids"] == row.token_ids[0].tolist()
    assert next(iter(with_datasets)) == with_arrow


def test_duckdb_alone_reads_and_counts(recording: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    row = Signals(recording)[0]

    first, every = duckdb.sql(
        f"select first(topk_ids), sum(len(positions)) from '{shards(recording)[0]}'"
    ).fetchall()[0]

    assert first == row.topk_ids.flatten().tolist()
    assert every == Signals(recording).manifest.shards[0].positions


def test_nothing_in_a_shard_can_be_null(recording: Path) -> None:
    import pyarrow.parquet as pq

    columns = pq.ParquetFile(shards(recording)[0]).schema

    assert all(columns.column(at).max_definition_level <= 1 for at in range(len(columns)))


def test_log_probabilities_follow_from_the_columns_as_documented(recording: Path) -> None:
    import pyarrow.parquet as pq

    columns = pq.read_table(shards(recording)[0]).to_pylist()[0]
    row = Signals(recording)[0]

    codes = np.array(columns["topk_codes"], dtype=float).reshape(-1, 8)
    relative = -np.array(columns["scale"])[:, None] * codes**1.5
    offset = np.array(columns["log_kept"]) - np.log(np.exp(relative).sum(axis=1))
    np.testing.assert_allclose(relative + offset[:, None], row.topk_logprobs, atol=1e-5)


def test_a_recording_without_temperatures_reads_back(
    tmp_path: Path, teacher: Path, text: Path
) -> None:
    record(teacher, [Corpus("xx", text, limit=5)], tmp_path / "signals", temperatures=())

    batch = Signals(tmp_path / "signals").batch([0, 1])

    assert batch.log_partition == {}
    assert len(batch.labels) == len(batch.topk_logprobs) > 0


def test_the_order_of_many_rows_is_kept_in_few_bytes_for_each(recording: Path) -> None:
    signals = Signals(recording)
    shards = tuple(replace(shard, rows=20_000) for shard in signals.manifest.shards[:2] * 25)
    signals.manifest = replace(signals.manifest, shards=shards)
    signals._starts = np.cumsum([0, *(shard.rows for shard in shards)])
    tracemalloc.start()

    order = signals.order(seed=3)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The rule at once: rows by the window of their shard, and in it by a random key.
    generator = np.random.Generator(np.random.Philox(3))
    window = generator.permutation(len(shards) + 1)[np.arange(len(order)) // 20_000]
    window = np.unique(window, return_inverse=True)[1] // _WINDOW
    assert np.array_equal(order, np.lexsort((generator.random(len(order)), window)))
    assert peak < 20 * len(order)
