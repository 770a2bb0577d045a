import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bistil.errors import ExtractError
from bistil.text.batches import Schedule
from bistil.text.pairing import pairs_of
from bistil.text.row_files import row_digest
from bistil.text.rows import TextRows
from teacherzoo.text.corpora import is_held_out
from vocabmerge import VocabularyError


@pytest.fixture
def rows_of(tokenizer: Any, texts: dict[str, Path], tmp_path: Path) -> Callable[..., TextRows]:
    def make(**options: Any) -> TextRows:
        settings: dict[str, Any] = {
            "tokenizer_digest": "t", "length": 16, "batch": 4, "held_out_share": 0.2, "seed": 3,
            "files": {language: [texts[language]] for language in ("en", "sw")},
        }  # fmt: skip
        settings |= options
        files = settings.pop("files")
        return TextRows(files, tokenizer, tmp_path / "cache", **settings)

    return make


@pytest.fixture
def parallel(tmp_path: Path) -> Path:
    file = tmp_path / "sw.tsv"
    lines = [f"{'ab ' * (i % 7 + 1)}{i}\t{'mn ' * (i % 5 + 1)}{i}" for i in range(60)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_row_is_what_the_tokenizer_makes_of_prompt_and_line_cut_at_the_length(
    rows_of: Callable[..., TextRows], tokenizer: Any, texts: dict[str, Path]
) -> None:
    text = rows_of(held_out_share=0, prompts=["ab "])
    lines = list(dict.fromkeys(texts["en"].read_text().splitlines()))
    rows = text.groups["en"].rows

    batch = rows.padded([0, 5, 2], pad=0)

    expected = tokenizer(
        ["ab " + lines[number] for number in (0, 5, 2)],
        truncation=True, max_length=16, padding=True, return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert len(rows) == len(lines)
    assert rows.digests[5].tobytes() == row_digest("ab " + lines[5])
    assert text.groups["en"].prompt_length == len(tokenizer("ab ")["input_ids"]) - 1


def test_held_out_lines_are_those_of_their_content_and_in_no_batch(
    rows_of: Callable[..., TextRows], texts: dict[str, Path]
) -> None:
    text = rows_of()
    trained = text.groups["sw"].rows.digests
    held_out = text.held_out()["sw"]

    lines = set(texts["sw"].read_text().splitlines())
    expected = sum(not is_held_out(row_digest(line), share=0.2) for line in lines)
    assert len(trained) == expected
    seen = {digest.tobytes() for batches in held_out for i in range(len(batches)) for digest in batches.digests(i)}  # fmt: skip
    assert seen
    assert not seen & {digest.tobytes() for digest in trained}


def test_batches_are_the_seeds_in_any_order_and_languages_take_turns(
    rows_of: Callable[..., TextRows], parallel: Path
) -> None:
    first, again = (
        rows_of(prompts=["", "ab "], parallel={"sw": [parallel]}).batches(24) for _ in range(2)
    )

    forwards = [first[number] for number in range(24)]
    backwards = [again[number] for number in reversed(range(24))][::-1]

    for batch, other in zip(forwards, backwards, strict=True):
        assert batch.keys() == other.keys()
        assert all(torch.equal(batch[name], other[name]) for name in batch)
    kinds = [(int(batch["language"]), int(batch["prompt_length"]), "source_input_ids" in batch) for batch in forwards]  # fmt: skip
    for turn in range(4):  # two languages and the pairs, under two prompts
        assert len(set(kinds[6 * turn : 6 * turn + 6])) == 6


def test_rows_of_a_batch_are_of_much_the_same_length_and_a_pass_has_each_once() -> None:
    lengths = np.random.default_rng(0).integers(3, 65, 1003)
    slots = Schedule({"en": 1003}, batches=250, size=8, seed=0, lengths={"en": lengths})
    plain = Schedule({"en": 1003}, batches=250, size=8, seed=0)

    def padding(schedule: Schedule) -> float:
        rows = [lengths[schedule[number][1]] for number in range(125)]
        return 1 - sum(int(row.sum()) for row in rows) / sum(8 * int(row.max()) for row in rows)

    first, second = (
        np.concatenate([slots[number][1] for number in range(start, start + 125)])
        for start in (0, 125)
    )
    assert padding(slots) < 0.05 < padding(plain)
    assert len(set(first)) == len(set(second)) == 1000
    assert set(first) != set(second)


def test_of_translations_a_batch_has_both_sides_row_by_row(
    rows_of: Callable[..., TextRows], parallel: Path, tokenizer: Any
) -> None:
    group = rows_of(parallel={"sw": [parallel]}, held_out_share=0).groups["sw (pairs)"]
    source, target = parallel.read_text().splitlines()[7].split("\t")

    assert group.sources is not None
    for rows, text in ((group.sources, source), (group.rows, target)):
        ids = rows.padded([7], pad=0)["input_ids"][0].tolist()
        assert ids == tokenizer(text, truncation=True, max_length=16)["input_ids"]


def test_a_pair_in_one_row_has_two_segments(
    rows_of: Callable[..., TextRows], parallel: Path, tokenizer: Any
) -> None:
    rows = rows_of(files={"sw": [parallel]}, form="pairs", held_out_share=0).groups["sw"].rows
    lines = parallel.read_text().splitlines()

    batch = rows.padded([0, 6], pad=0)

    firsts, seconds = zip(*(lines[number].split("\t") for number in (0, 6)), strict=True)
    expected = tokenizer(
        list(firsts), list(seconds), truncation=True, max_length=16, padding=True, return_tensors="pt",
        return_token_type_ids=True,
    )  # fmt: skip
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], expected[name])


@pytest.mark.parametrize(
    ("line", "columns"), [("a\tb\tc", "got 3"), ("a", "got 1"), ("a\t ", "got 2, of which 1 with text")]
)  # fmt: skip
def test_a_line_of_pairs_without_two_columns_is_refused_by_file_and_line(
    tmp_path: Path, line: str, columns: str
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(f"one\tmoja\n\n{line}\n")

    with pytest.raises(ExtractError, match=rf"pairs.tsv, line 3: expected two columns .*{columns}"):
        list(pairs_of([file]))


def test_pairs_of_a_packed_file_are_read_and_one_without_text_is_refused_by_name(
    tmp_path: Path,
) -> None:
    packed, empty = tmp_path / "pairs.tsv.xz", tmp_path / "empty.tsv"
    packed.write_bytes(lzma.compress(b"one\tmoja\r\n\none\tmoja\ntwo\tmbili\n"))
    empty.write_text("\n \n")

    assert list(pairs_of([packed])) == [("one", "moja"), ("two", "mbili")]
    with pytest.raises(VocabularyError, match=r"empty.tsv: the corpus is empty"):
        list(pairs_of([empty]))


def test_a_batch_by_tokens_has_as_many_rows_as_make_them_on_the_average(
    rows_of: Callable[..., TextRows],
) -> None:
    text = rows_of(by_tokens=True, length=64)

    sizes = [batch["attention_mask"].sum().item() for batch in map(text.batches(40).__getitem__, range(40))]  # fmt: skip
    rows = {len(text.batches(40)[number]["input_ids"]) for number in range(40)}

    assert rows == {text.rows_in_batch}
    assert text.rows_in_batch > 4
    assert np.mean(sizes) == pytest.approx(4 * 64, rel=0.15)


def test_fewer_held_out_lines_than_a_batch_are_one_of_all(
    rows_of: Callable[..., TextRows], texts: dict[str, Path]
) -> None:
    text = rows_of(held_out_share=0.02, batch=300)
    held_out = text.held_out()

    for language in ("en", "sw"):
        expected = {
            row_digest(line) for line in texts[language].read_text().splitlines() if is_held_out(row_digest(line), share=0.02)
        }  # fmt: skip
        [batches] = held_out[language]
        assert len(batches) == 1
        assert {digest.tobytes() for digest in batches.digests(0)} == expected
    assert rows_of(held_out_share=0).held_out() == {}
