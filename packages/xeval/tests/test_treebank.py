import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from xeval.data.folder import find_data_sets
from xeval.errors import XevalError
from xeval.task_templates import treebank
from xeval.task_templates.treebank import read_treebank
from xeval.tasks import task_of

WORD = "{0}\t{1}\t_\t{2}\t_\t_\t{3}\t{4}\t_\t_"
# A multiword token, an empty node, a subtyped relation, comments, two sentences.
GOOD = "\n".join(
    [
        "# sent_id = 1",
        "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_",
        WORD.format(1, "vamos", "VERB", 0, "root"),
        WORD.format(2, "nos", "PRON", 1, "expl:pv"),
        "2.1\tallá\t_\tADV\t_\t_\t_\t_\t1:advmod\t_",
        WORD.format(3, ".", "PUNCT", 1, "punct"),
        "",
        "# sent_id = 2",
        WORD.format(1, "sí", "INTJ", 0, "root"),
        "",
        "",
    ]
)


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "test.conllu"
    path.write_text(text, encoding="utf-8")
    return path


def test_ranges_and_empty_nodes_are_left_out_and_subtypes_cut(tmp_path: Path) -> None:
    first, second = read_treebank(file(tmp_path, GOOD))

    assert first.words == ("vamos", "nos", ".")
    assert first.heads == (0, 1, 1)
    assert first.relations == ("root", "expl", "punct")
    assert (first.line, second.line) == (1, 8)
    assert second.words == ("sí",)


def test_the_second_reading_parses_nothing_and_is_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, GOOD)
    first = read_treebank(path)
    monkeypatch.setattr(treebank, "parse_treebank", None)

    assert read_treebank(path) == first
    assert [p.suffix for p in cache.rglob("*") if p.is_file()] == [".json"]


def test_a_changed_file_is_parsed_again(tmp_path: Path) -> None:
    read_treebank(file(tmp_path, GOOD))

    assert len(read_treebank(file(tmp_path, GOOD + GOOD))) == 4


def test_a_damaged_cache_is_parsed_over(tmp_path: Path, cache: Path) -> None:
    first = read_treebank(file(tmp_path, GOOD))
    (kept,) = (p for p in cache.rglob("*.json"))
    kept.write_text('[["half')

    assert read_treebank(file(tmp_path, GOOD)) == first
    assert json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\ta\tb\n\n", "test.conllu:1: expected 10 columns separated by tabs, got 3"),
        (GOOD + "x\ta\t_\tX\t_\t_\t0\troot\t_\t_\n", "test.conllu:11: not a CoNLL-U sentence"),
        (WORD.format(2, "a", "X", 0, "root") + "\n\n", "test.conllu:1: expected word 1, got the id 2"),
        (WORD.format(1, "a", "X", 5, "root") + "\n\n", "test.conllu:1: expected a head from 0 to 1, got '5'"),
        ("# only a comment\n\n", "holds no sentence"),
        (" \n", "the file is empty"),
    ],
)  # fmt: skip
def test_malformed_lines_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(XevalError, match=said):
        read_treebank(file(tmp_path, text))


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "test.conllu"
    path.write_bytes(GOOD.encode() + b"# \xff\xfe\n")

    with pytest.raises(
        XevalError, match=r"test.conllu:11: expected UTF-8 text, got the byte b'\\xff'"
    ):
        read_treebank(path)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress], ids=["xz", "gz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"no archive",
        lambda packed: packed[: len(packed) // 2],
        # Behind gzip's header of ten bytes a block of a kind that there is none of: zlib's own error, and no OSError.
        lambda packed: packed[:10] + b"\xff" + packed[11:],
        lambda packed: packed[:-6] + bytes([packed[-6] ^ 0xFF]) + packed[-5:],
    ],
    ids=["none", "cut", "stream", "checksum"],
)
def test_a_damaged_archive_is_named(
    tmp_path: Path, pack: Callable[[bytes], bytes], damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"test.conllu.{'xz' if pack is lzma.compress else 'gz'}"
    path.write_bytes(damage(pack(GOOD.encode() * 20)))

    with pytest.raises(XevalError, match=f"{path.name}: cannot be read"):
        read_treebank(path)


@pytest.mark.parametrize(
    ("heads", "said"),
    [((0, 0), "2 roots"), ((2, 1), "0 roots"), (("_", "_"), "has no tree")],
)
def test_parsing_refuses_what_is_no_tree_and_tagging_takes_it(
    tmp_path: Path, heads: tuple[object, object], said: str
) -> None:
    path = file(
        tmp_path,
        "".join(WORD.format(i, "a", "X", h, "dep") + "\n" for i, h in enumerate(heads, 1)) + "\n",
    )

    with pytest.raises(XevalError, match=said):
        task_of("dp").read(path, None)
    assert len(task_of("pos").read(path, None)) == 1


def test_an_unknown_tag_and_an_unknown_relation_are_named_with_their_line(tmp_path: Path) -> None:
    path = file(tmp_path, WORD.format(1, "a", "NOM", 0, "top") + "\n\n")

    with pytest.raises(
        XevalError, match=r"test.conllu:1: expected a universal part of speech .* got 'NOM'"
    ):
        task_of("pos").read(path, None)
    with pytest.raises(XevalError, match=r"test.conllu:1: the label 'top'"):
        task_of("dp").read(path, None)


@pytest.mark.parametrize(
    ("first", "second"),
    [("tatoeba/de.tsv", "tatoeba/de.tsv.xz"), ("tatoeba/de.tsv", "tatoeba/de/test.tsv"),
     ("tatoeba/de/test.tsv", "tatoeba/de/test.tsv.gz")],
)  # fmt: skip
def test_two_files_for_one_split_are_refused_by_name(
    first: str, second: str, tmp_path: Path
) -> None:
    for name in (first, second):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    with pytest.raises(XevalError, match="both the test split of de; leave one") as refused:
        find_data_sets(tmp_path, "tatoeba", "tsv")

    assert str(tmp_path / first) in str(refused.value)
    assert str(tmp_path / second) in str(refused.value)


def test_data_sets_are_found_in_both_layouts_plain_and_packed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tatoeba").mkdir()
    (tmp_path / "tatoeba" / "de.tsv").write_text("a\tb\n")

    (single,) = find_data_sets(tmp_path, "tatoeba", "tsv")
    treebanks = find_data_sets(data, "ud", "conllu")

    assert (single.name, single.language, single.splits) == ("tatoeba/de", "de", ("test",))
    assert [(t.name, t.language, t.splits) for t in treebanks] == [
        ("ud/xx_made", "xx", ("train", "dev", "test")),
        ("ud/yy_made", "yy", ("test",)),
        ("ud/zz_made", "zz", ("train",)),
    ]


def test_a_folder_without_the_task_says_what_it_would_read(tmp_path: Path) -> None:
    with pytest.raises(
        XevalError, match=r"ud: no such folder; the task reads ud/<name>/<split>.conllu"
    ):
        find_data_sets(tmp_path, "ud", "conllu")
