"""Published tokenizers as they are: whole files and real text from outside the repository, where these are there.

`../shared/real/tokenizers/NAME/tokenizer.json.xz` and `../shared/data/corpora/CODE.txt.xz` beside the repository, or under
DISTILLERY_SHARED; DISTILLERY_E5 names a folder of multilingual-e5-small, whose tokenizer is that of XLM-R.
"""

import json
import lzma
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from vocabmerge import (
    merge_vocabularies,
    open_tokenizer,
    parse_vocabulary,
    read_corpus,
    sample_lines,
    trim_vocabulary,
)
from vocabmerge.carry.pieces import matching_ids, segment_in_old_pieces
from vocabmerge.count import count_pieces

SHARED = Path(os.environ.get("DISTILLERY_SHARED", Path(__file__).resolve().parents[4] / "shared"))
FILES = {
    file.parent.name: file for file in sorted(SHARED.glob("real/tokenizers/*/tokenizer.json.xz"))
}
if E5 := os.environ.get("DISTILLERY_E5"):
    FILES["multilingual-e5-small"] = Path(E5, "tokenizer.json")
TEXT = SHARED / "data/corpora/en.txt.xz"
MOST_MEMORY = 2 * 10**9

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES or not TEXT.is_file(), reason=f"no real tokenizers in {SHARED}"),
]


def text_of(name):
    content = FILES[name].read_bytes()
    return (lzma.decompress(content) if FILES[name].suffix == ".xz" else content).decode()


def vocabulary(name):
    return parse_vocabulary(text_of(name), name=name)


@pytest.fixture(scope="module")
def lines():
    return sample_lines(read_corpus(TEXT), 300)


@pytest.fixture(scope="module")
def read():
    """Each vocabulary, read once."""
    known = {}
    return lambda name: known.get(name) or known.setdefault(name, vocabulary(name))


@pytest.fixture(params=FILES)
def name(request):
    return request.param


def test_a_file_and_its_twin_without_a_type_are_one(name, read):
    twin = json.loads(text_of(name))
    twin["model"].pop("type")
    assert parse_vocabulary(twin, name=name).digest == read(name).digest
    assert dict(read(name).ids) == read(name).segmenter().get_vocab(with_added_tokens=True)


def test_a_trim_keeps_the_counted_text(name, read, lines):
    cut = trim_vocabulary(read(name), {"en": count_pieces(read(name), lines)})
    assert len(cut.kept) < len(read(name)) / 2
    before, after = read(name).segmenter(), cut.after.segmenter()
    old = before.encode_batch_fast(lines)
    assert [one.ids for one in after.encode_batch_fast(lines)] == [
        cut.new_ids[one.ids].tolist() for one in old
    ]


def test_a_vocabulary_matches_itself(name, read):
    live = [i for i, role in enumerate(read(name).roles) if role not in ("hole", "placeholder")]
    match = matching_ids(read(name), read(name))[live]
    # Two pieces of one meaning, such as an added token and a word, are rare and may match each other.
    assert (match == live).mean() > 0.9999
    assert (match >= 0).all()


@pytest.mark.parametrize(("one", "other"), [*combinations(FILES, 2)])
def test_nearly_all_words_can_be_carried(one, other, read, lines):
    new, old = read(one), read(other)
    used = np.flatnonzero(count_pieces(new, lines)).tolist()
    match = matching_ids(new, old)
    spelled = segment_in_old_pieces(new, old, used)
    reached = [match[number] >= 0 or bool(ids) for number, ids in zip(used, spelled, strict=True)]
    assert np.mean(reached) > 0.99


def assert_languages_are_exact(union, teachers, lines):
    for teacher in teachers:
        rows = union.maps[teacher.name].one_to_one()
        own = open_tokenizer(union.teachers[teacher.name], name="own")
        before = teacher.segmenter().encode_batch_fast(lines, add_special_tokens=False)
        after = own.encode_batch_fast(lines, add_special_tokens=False)
        for old, new in zip(before, after, strict=True):
            assert new.ids == rows[old.ids].tolist()


@pytest.mark.parametrize(("one", "other"), [*combinations(FILES, 2)])
def test_a_union_of_two_has_both_languages_exactly_and_tears_nothing_apart(one, other, read, lines):
    teachers = [read(one), read(other)]
    union = merge_vocabularies(
        teachers,
        languages={"l0": one, "l1": other},
        corpora={"l0": lines, "l1": lines},
        normalizer="keep",
    )
    assert_languages_are_exact(union, teachers, [*lines, "  two   spaces\t\n\n and lines ", ""])
    opened = open_tokenizer(union.tokenizer, name="union")
    tokens = sum(len(one) for one in opened.encode_batch_fast(lines, add_special_tokens=False))
    own = [sum(len(one) for one in t.segmenter().encode_batch_fast(lines, add_special_tokens=False)) for t in teachers]  # fmt: skip
    assert tokens < 1.5 * max(own)


MERGE_ALL = """
import json, resource, sys
sys.path.insert(0, {tests!r})
from test_whole_tokenizers import FILES, TEXT, assert_languages_are_exact, vocabulary
from vocabmerge import merge_vocabularies, read_corpus, sample_lines
lines = sample_lines(read_corpus(TEXT), 2000)
teachers = [vocabulary(name) for name in FILES]
codes = {{f"l{{number}}": teacher.name for number, teacher in enumerate(teachers)}}
union = merge_vocabularies(teachers, languages=codes, corpora=dict.fromkeys(codes, lines), normalizer="keep")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
assert_languages_are_exact(union, teachers, lines)
print(json.dumps([peak, min(one.words_alike for one in union.fidelity.values())]))
"""


def test_a_union_of_all_stays_within_two_gigabytes():
    code = MERGE_ALL.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, alike = json.loads(done.stdout)
    assert peak < MOST_MEMORY
    assert alike > 0.5
