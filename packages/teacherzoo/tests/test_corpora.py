import bz2
import gzip
import json
import lzma
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teacherzoo import Corpus, CorpusError
from teacherzoo.text.corpora import document_digest, is_held_out
from vocabmerge import VocabularyError, read_corpus
from vocabmerge.language_texts import LanguageText


def texts(corpus: Corpus, **options: int) -> list[str]:
    return [document.text for document in corpus.documents(**options)]


def write_all_formats(folder: Path, lines: list[str]) -> list[Path]:
    content = "\n".join(lines).encode() + b"\n"
    records = "".join(json.dumps({"id": n, "text": line}) + "\n" for n, line in enumerate(lines))
    (folder / "a.txt").write_bytes(content)
    (folder / "a.txt.gz").write_bytes(gzip.compress(content))
    (folder / "a.txt.xz").write_bytes(lzma.compress(content))
    (folder / "a.jsonl").write_text(records)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(records.encode()))
    pq.write_table(pa.table({"text": lines}), folder / "a.parquet")
    return sorted(folder.iterdir())


def test_every_format_holds_the_same_documents(tmp_path: Path) -> None:
    lines = ["Grüße aus Köln", "日本語の文", "plain", "e\u0301 stays decomposed"]

    found = {path.name: texts(Corpus("xx", path)) for path in write_all_formats(tmp_path, lines)}

    assert len(found) == 6
    assert found == dict.fromkeys(found, lines)


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "notes.md").write_text("no corpus\n")

    assert texts(Corpus("en", tmp_path)) == ["first", "second"]


def test_repeats_and_blank_lines_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_text("one\n\n  \ntwo\none\n")

    assert texts(Corpus("en", path)) == ["one", "two"]


def test_reading_resumes_exactly_where_it_stopped(text: Path) -> None:
    corpus = Corpus("en", text, part="train", held_out_share=0.2)
    every = texts(corpus)

    for start in (0, 1, len(every) // 2, len(every) - 1, len(every)):
        assert texts(corpus, start=start) == every[start:]


def test_train_and_held_out_are_the_whole_and_disjoint(text: Path) -> None:
    share = 0.3
    train = texts(Corpus("en", text, part="train", held_out_share=share))
    held_out = texts(Corpus("en", text, part="held_out", held_out_share=share))

    assert sorted(train + held_out) == sorted(texts(Corpus("en", text)))
    assert 0.15 < len(held_out) / (len(train) + len(held_out)) < 0.45


def test_a_document_stays_on_its_side_when_text_is_added(tmp_path: Path, lines: list[str]) -> None:
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text("\n".join(lines[:50]))
    large.write_text("\n".join(reversed(lines)))
    options = {"part": "held_out", "held_out_share": 0.3}

    few = texts(Corpus("en", small, **options))  # type: ignore[arg-type]  # a dict of options
    many = texts(Corpus("en", large, **options))  # type: ignore[arg-type]  # as above

    assert set(few) == set(many) & set(lines[:50])


def test_the_split_shares_out_what_it_says() -> None:
    digests = [document_digest(str(number)) for number in range(4000)]

    held_out = sum(is_held_out(digest, share=0.1) for digest in digests)

    assert 320 < held_out < 480


def test_limit_keeps_the_first_documents(text: Path) -> None:
    assert texts(Corpus("en", text, limit=3)) == texts(Corpus("en", text))[:3]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz"])
def test_undecodable_bytes_are_named_by_file_and_line(tmp_path: Path, suffix: str) -> None:
    content = b"good\nalso good\nba\xffd\n"
    pack = {".txt": bytes, ".txt.gz": gzip.compress, ".txt.xz": lzma.compress}[suffix]
    path = tmp_path / f"en{suffix}"
    path.write_bytes(pack(content))

    with pytest.raises(
        CorpusError,
        match=re.escape(f"{path}, line 3: expected UTF-8 text, got byte 0xff at column 3"),
    ):
        texts(Corpus("en", path))


def test_a_broken_record_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "en.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "bro\n')

    with pytest.raises(CorpusError, match=re.escape(f"{path}, line 2: not a JSON record")):
        texts(Corpus("en", path))


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "en.txt.xz"
    path.write_bytes(lzma.compress(b"line\n" * 5000)[:-20])

    with pytest.raises(CorpusError, match=re.escape(str(path))):
        texts(Corpus("en", path))


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.xz", ".jsonl.gz", ".jsonl.xz"])
@pytest.mark.parametrize("place", [0, 3, 0.5, -9])
def test_an_archive_damaged_anywhere_is_one_sentence(
    tmp_path: Path, suffix: str, place: float
) -> None:
    content = b"".join(b'{"text": "%d"}\n' % number**7 for number in range(3000))
    packed = bytearray((gzip if suffix.endswith("gz") else lzma).compress(content))
    start = int(place * len(packed)) if isinstance(place, float) else place % len(packed)
    packed[start : start + 8] = b"\xff\x00" * 4
    path = tmp_path / f"en{suffix}"
    path.write_bytes(packed)

    with pytest.raises(CorpusError, match=re.escape(str(path))) as caught:
        texts(Corpus("en", path))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".txt.lz4", ".jsonl.zst", ".parquet.gz"])
def test_a_compression_that_is_not_read_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"en{suffix}"
    path.write_bytes(b"anything")

    with pytest.raises(CorpusError, match=re.escape(f"{path}: expected a name ending in .txt, ")):
        texts(Corpus("en", path))


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "en.parquet"
    path.write_bytes(b"no parquet")

    with pytest.raises(CorpusError, match=re.escape(f"{path}: not a readable Parquet file")):
        texts(Corpus("en", path))


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    path = tmp_path / "en.jsonl"
    path.write_text('{"body": "fine"}\n')

    with pytest.raises(CorpusError, match=r"line 1: no column 'text', only \['body'\]"):
        texts(Corpus("en", path))


@pytest.mark.parametrize("name", ["wiki[1].txt", "wi*.txt", "wiki?.txt", "a::b.txt", "a%20b.txt"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / "wiki1.txt").write_text("of another file\n")
    (tmp_path / name).write_text("its own text\n")

    assert texts(Corpus("en", tmp_path / name)) == ["its own text"]


@pytest.mark.parametrize(
    "pack",
    [
        (bytes, ".txt"),
        (gzip.compress, ".txt.gz"),
        (bz2.compress, ".bz2"),
        (lzma.compress, ".TXT.XZ"),
    ],
)
@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree",
        b"one\n\xef\xbb\xbftwo\n",  # two files behind one another
        b"one\rtwo\nthree\xe2\x80\xa8four\x0cfive\n",
    ],
)
def test_lines_are_those_that_vocabmerge_reads(tmp_path: Path, content: bytes, pack: Any) -> None:
    compress, suffix = pack
    path = tmp_path / f"en{suffix}"
    path.write_bytes(compress(content))

    assert texts(Corpus("en", path)) == list(read_corpus(path))


def odd_files(folder: Path) -> None:
    """Files and folders of text that readers may take otherwise than one another."""
    lines, records = b"one\ntwo\n", b'{"text": "three"}\n\n{"text": "four", "more": {"a": 1}}\n'
    files = {
        "nul.txt": b"one\0a\n\0\n", "blank.txt": b" \n\xc2\xa0\n", "old.txt": b"caf\xe9\n", "wide.txt": "a".encode("utf-16"),
        "cut.txt.gz": gzip.compress(lines * 900)[:-9], "plain.txt.xz": lines, "records.jsonl": records,
        "records.jsonl.bz2": bz2.compress(records), "array.jsonl": b"[1]\n", "nested.jsonl": b'{"text": {"a": "one"}}\n',
        "no.jsonl": b'{"body": "one"}\n', "broken.jsonl": b'{"text": "one\n', "rows.csv": b'a,b\n"one\ntwo",3\n', "list.json": records,
        "page.html": lines, "none": lines, "packed.txt.zst": lines, "TEXT.TXT": lines, "news.gz": gzip.compress(lines),
        "one/a.txt": lines, "one/sub/b.txt": records, "two/a.txt": lines, "two/b.txt": b"", "three/b.jsonl.gz": gzip.compress(records),
        "three/a.txt.bz2": bz2.compress(lines), "three/._a.txt": b"\0\5", "four/a.txt": lines, "four/b.txt.zip": lines,
        "five/a.md": lines, "six/sub/a.txt": lines, "seven/a.txt": b"",
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_a_file_is_the_same_text_to_vocabmerge_or_to_none(tmp_path: Path) -> None:
    odd_files(tmp_path)
    taken = {}
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing.txt"]:
        outcomes: list[Any] = []
        for read in (
            lambda file: texts(Corpus("en", file)),
            lambda file: list(LanguageText([file], lines=None)),
        ):
            try:
                outcomes.append(read(path))
            except (CorpusError, VocabularyError) as refusal:
                named = path.name in str(refusal)
                outcomes.append("refused" if named else str(refusal))
        assert outcomes[0] == outcomes[1], path.name
        taken[path.name] = outcomes[0]

    assert {name for name, text in taken.items() if text != "refused"} == {
        *("nul.txt", "records.jsonl", "records.jsonl.bz2", "TEXT.TXT", "news.gz", "one", "two", "three"),
    }  # fmt: skip
    assert taken["three"] == ["one", "two", "three", "four"]


def test_a_byte_order_mark_is_no_part_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "en.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\r\n')

    assert texts(Corpus("en", path)) == ["one", "two"]


def test_what_stands_beside_the_text_of_a_record_may_be_of_any_kind(tmp_path: Path) -> None:
    long = "long " * 200_000  # so that a reader in chunks has begun anew before the last ones
    beside: list[dict[str, Any]] = [{"meta": {"a": n}} for n in range(12)]
    beside += [{"meta": {"b": "x"}}, {"meta": None, "tags": ["y"]}, {}]
    records = [{"text": f"{n} {long}", **more} for n, more in enumerate(beside)]
    path = tmp_path / "en.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))

    assert texts(Corpus("en", path)) == [record["text"] for record in records]


def test_a_text_that_looks_like_a_date_is_text(tmp_path: Path) -> None:
    path = tmp_path / "en.jsonl"
    path.write_text('{"text": "2024-01-01"}\n{"text": "2024-01-02 00:00:00"}\n')

    assert texts(Corpus("en", path)) == ["2024-01-01", "2024-01-02 00:00:00"]


def test_other_columns_of_parquet_may_be_of_any_type(tmp_path: Path) -> None:
    pairs = pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64()))
    path = tmp_path / "en.parquet"
    pq.write_table(pa.table({"more": pairs, "text": ["one", "two"]}), path)

    assert texts(Corpus("en", path)) == ["one", "two"]


def test_a_column_that_parquet_lacks_is_named_with_those_there(tmp_path: Path) -> None:
    path = tmp_path / "en.parquet"
    pq.write_table(pa.table({"body": ["one"]}), path)

    with pytest.raises(CorpusError, match=r"no column 'text', only \['body'\]"):
        texts(Corpus("en", path))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('["a list"]', "expected a record {…}, got list"),
        ('{"text": null}', "'text' must be text, got NoneType"),
        ('{"text": "a \\ud83d b"}', "'text' has '\\ud83d', half of a character"),
    ],
)
def test_a_record_without_a_text_is_named_by_file_and_line(
    tmp_path: Path, line: str, fault: str
) -> None:
    path = tmp_path / "en.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')

    with pytest.raises(CorpusError, match=re.escape(f"{path}, line 3: {fault}")):
        texts(Corpus("en", path))


def test_hidden_files_and_folders_are_no_text_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    (tmp_path / "._a.txt").write_bytes(b"\0\5\x16\7")  # of macOS, beside what it copies
    (tmp_path / "b.txt").mkdir()

    assert texts(Corpus("en", tmp_path)) == ["text"]


@pytest.mark.parametrize("name", ["b.txt.zst", "b.jsonl.zip"])
def test_a_text_of_a_folder_that_cannot_be_read_is_not_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    (tmp_path / name).write_bytes(b"anything")

    with pytest.raises(CorpusError, match=re.escape(f"{tmp_path / name}: expected a name ending")):
        texts(Corpus("en", tmp_path))


def test_a_part_without_a_document_names_the_share(tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_text("one\ntwo\n")

    with pytest.raises(CorpusError, match=r"of the 2 documents of .* held-out share of 0\.01"):
        texts(Corpus("en", path, part="held_out"))


@pytest.mark.parametrize("content", ["", "\n\n", "   \n"])
def test_an_empty_corpus_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sw.txt"
    path.write_text(content)

    with pytest.raises(CorpusError, match=re.escape(f"sw: {path} holds no document")):
        texts(Corpus("sw", path))


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "en.docx"
    path.write_bytes(b"")

    with pytest.raises(CorpusError, match=r"expected a name ending in \.txt"):
        texts(Corpus("en", path))


def test_a_missing_file_is_no_hub_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there is no file"):
        texts(Corpus("en", str(tmp_path / "nothing.txt")))


def test_a_hub_name_offline_is_one_sentence() -> None:
    with pytest.raises(CorpusError, match="'no-such/corpus' is no local file, and as a data set"):
        texts(Corpus("en", "no-such/corpus"))


@pytest.mark.parametrize(
    "options",
    [
        {"language": "../en"},
        {"language": ""},
        {"part": "dev"},
        {"held_out_share": 1.0},
        {"limit": 0},
    ],
)
def test_senseless_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(CorpusError):
        Corpus(**{"language": "en", "source": "x.txt", **options})  # type: ignore[arg-type]  # wrong on purpose


def test_reading_takes_less_memory_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "en.txt"
    file.write_text("".join(f"a line of few letters {number:06d}\n" for number in range(900_000)))
    next(Corpus("en", file).documents())  # what is imported and kept at the first reading
    tracemalloc.start()

    documents = Corpus("en", file).documents()
    for _ in range(100_000):  # 3 of 26 MB
        next(documents)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < file.stat().st_size
