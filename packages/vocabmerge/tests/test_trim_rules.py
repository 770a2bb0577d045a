"""How many pieces stay: coverage, multiples, and what more lines would change."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabmerge import (
    VocabularyError,
    count_pieces,
    more_lines,
    parse_vocabulary,
    trim,
    trim_vocabulary,
)
from vocabmerge.trim.choose_pieces import choose_by_coverage, close_over_merges, fill_up
from vocabmerge.trim.rule import Rule, covered_shares
from vocabmerge.trim.segmentation_change import segmentation_change
from vocabmerge.trim.segmented_text import SegmentedText

RULES = ({"threshold": 2e-3}, {"top": 150}, {"budget": 150}, {"coverage": 0.7})


@st.composite
def coverage_cases(draw):
    """Counts, merges whose parents exist before their child, what stays anyway, unknown tokens, a coverage."""
    languages, known = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    pieces = known + draw(st.integers(0, 6))
    merges = [
        [draw(st.integers(0, result - 1)), draw(st.integers(0, result - 1)), result]
        for result in range(known, pieces)
        if draw(st.booleans())
    ]
    row = st.lists(st.integers(0, 9), min_size=pieces, max_size=pieces).filter(
        lambda counts: sum(counts[1:])
    )
    counts = np.array(draw(st.lists(row, min_size=languages, max_size=languages)))
    counts[:, 0] = np.minimum(counts[:, 0], 1)  # the unknown token
    forced = np.array(draw(st.lists(st.booleans(), min_size=pieces, max_size=pieces)))
    return counts, np.array(merges).reshape(-1, 3), close_over_merges(forced, merges), draw(st.floats(0.05, 1))  # fmt: skip


def share(row, keep):
    return row[1:][keep[1:]].sum() / row[1:].sum()  # unknown tokens are nobody's to cover


@settings(max_examples=150, deadline=None)
@given(coverage_cases())
def test_every_language_reaches_the_coverage_with_the_fewest_of_its_most_frequent_pieces(case):
    counts, merges, always, coverage = case
    keep = choose_by_coverage(counts, coverage, always=always, merges=merges, unknown=[0])

    expected = always.copy()
    for row in counts:
        order = sorted(np.flatnonzero((row > 0) & ~always), key=lambda piece: (-row[piece], piece))
        order = [piece for piece in order if piece != 0]
        for number in range(len(order) + 1):
            first = always.copy()
            first[order[:number]] = True
            if share(row, close_over_merges(first, merges)) >= coverage:
                break
        expected |= first
    assert keep.tolist() == expected.tolist()
    closed = close_over_merges(keep, merges)
    for row in counts:
        assert share(row, closed) >= coverage


def test_a_coverage_is_reached_exactly_where_it_can_be():
    counts = [[50, 20, 20, 7, 2, 1]]
    none = [0] * 6
    sizes = {share: int(choose_by_coverage(counts, share, always=none).sum()) for share in (0.5, 0.7, 0.9, 0.97, 0.99, 1.0)}  # fmt: skip
    assert sizes == {0.5: 1, 0.7: 2, 0.9: 3, 0.97: 4, 0.99: 5, 1.0: 6}


def test_the_tokens_of_ancestors_are_covered_with_their_piece():
    counts, none = [[0, 3, 2, 9, 6]], [0] * 5
    assert choose_by_coverage(counts, 0.7, always=none, merges=[[1, 2, 3]]).tolist() == [0, 0, 0, 1, 0]  # fmt: skip
    assert choose_by_coverage(counts, 0.7, always=none).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_number_of_pieces_is_a_multiple_and_those_of_the_rule_stay(
    family, rule, trained, lines_of
):
    vocabulary = trained(family)
    counts = {
        code: count_pieces(vocabulary, lines_of("aa", 150, seed))
        for seed, code in enumerate(("xx", "yy"))
    }
    if "budget" in rule or "top" in rule:
        always = trim_vocabulary(vocabulary, counts, threshold=1).always
        rule = dict.fromkeys(rule, always + 30)
    plain = trim_vocabulary(vocabulary, counts, **rule)
    cut = trim_vocabulary(vocabulary, counts, multiple=32, **rule)
    asked = next(iter(rule.values())) if {"budget", "top"} & set(rule) else len(plain.kept)

    assert len(cut.kept) == min(32 * math.ceil(asked / 32), len(vocabulary))
    assert len(cut.kept) >= len(plain.kept)
    if "budget" not in rule:  # a larger fair choice need not contain the smaller one
        assert set(plain.kept) <= set(cut.kept)
    kept = np.zeros(len(vocabulary), dtype=bool)
    kept[cut.kept] = True
    assert np.array_equal(close_over_merges(kept, vocabulary.model.merge_ids()), kept)
    text = SegmentedText(vocabulary, lines_of("aa", 80))
    for line, ids in _lines_of_kept_pieces(vocabulary, text, cut):
        assert cut.after.segmenter().encode(line, add_special_tokens=False).ids == cut.new_ids[ids].tolist()  # fmt: skip


def _lines_of_kept_pieces(vocabulary, text, cut):
    """Lines that were made of kept pieces alone, none of them unknown."""
    for lines, ids, lengths in text.batches():
        for line, row in zip(lines, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
            if (cut.new_ids[row] >= 0).all() and vocabulary.special_id("unk") not in row:
                yield line, row


@pytest.mark.parametrize("rule", [{"threshold": 2e-3}, {"top": 150}, {"coverage": 0.9}], ids=str)
def test_rounding_takes_the_pieces_that_come_next_by_the_rule(rule, trained, lines_of):
    vocabulary = trained("unigram")
    counts = {"aa": count_pieces(vocabulary, lines_of("aa", 300))}
    cut = trim_vocabulary(vocabulary, counts, multiple=64, **rule)
    kept = np.isin(np.arange(len(vocabulary)), cut.kept)
    chosen = kept & ~cut.forced
    assert counts["aa"][chosen].min() >= counts["aa"][~kept].max()
    assert len(cut.kept) % 64 == 0


def test_a_vocabulary_without_more_pieces_stays_whole(trained, lines_of):
    vocabulary = trained("bpe-metaspace")
    counts = {"aa": count_pieces(vocabulary, lines_of("aa", 20))}
    for rule in ({"threshold": 1e-3}, {"top": 300}, {"budget": 300}, {"coverage": 0.9}):
        assert len(trim_vocabulary(vocabulary, counts, multiple=1000, **rule).kept) == len(vocabulary)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(coverage_cases(), st.data())
def test_filling_up_is_exact_and_closed(case, data):
    counts, merges, always, _ = case
    size = data.draw(st.integers(int(always.sum()), len(always)))
    keep = fill_up(always, size, score=counts.max(axis=0).astype(float), merges=merges)
    assert keep.sum() == size
    assert keep[always].all()
    assert np.array_equal(close_over_merges(keep, merges), keep)


@pytest.mark.parametrize("coverage", [0, -0.5, 1.01, 99, math.nan])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    with pytest.raises(VocabularyError, match=r"coverage above 0 and at most 1, such as 0\.99"):
        Rule(coverage=coverage)


def test_a_bad_rule_is_refused_before_text_and_model_are_looked_at(tmp_path):
    with pytest.raises(VocabularyError, match="coverage above 0"):
        trim(tmp_path / "no model", {"aa": [tmp_path / "no text"]}, tmp_path / "out", coverage=2)


@pytest.mark.parametrize("multiple", [0, -64])
def test_a_multiple_below_one_is_refused(multiple):
    with pytest.raises(VocabularyError, match="multiple of 1 or more"):
        Rule(multiple=multiple)


def tiny():
    return parse_vocabulary(
        {
            "added_tokens": [],
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 9, "vocab": {"[UNK]": 0, "ab": 1, "cd": 2, "ef": 3, "gh": 4}},
        },
        name="tiny",
    )  # fmt: skip


def test_a_coverage_that_unknown_tokens_forbid_is_refused_with_what_can_be_met():
    counts = {"aa": [0, 4, 3, 2, 1], "bo": [7, 90, 3, 0, 0]}
    message = r"language 'bo': expected a coverage that can be met, got 0\.99, but 7\.000% of its tokens are unknown to tiny; ask for 0\.93 or less"  # fmt: skip
    with pytest.raises(VocabularyError, match=message):
        trim_vocabulary(tiny(), counts, coverage=0.99)
    met = trim_vocabulary(tiny(), counts, coverage=0.93)
    assert min(met.coverage.values()) >= 0.93


def test_all_of_a_text_without_unknown_tokens_can_be_covered():
    assert trim_vocabulary(tiny(), {"aa": [0, 4, 3, 2, 0]}, coverage=1).coverage == {"aa": 1.0}


def test_unknown_tokens_are_no_cut_s_to_cover():
    """What the whole vocabulary does not know takes nothing from a cut's coverage, unless it is a twentieth of the text."""
    counts = {"zh": [5, 90, 5, 0, 0]}
    cut = trim_vocabulary(tiny(), counts, coverage=0.999)
    assert cut.coverage == {"zh": 1.0}
    assert trim_vocabulary(tiny(), counts, coverage=0.9).coverage == {"zh": 90 / 95}


def test_the_coverage_is_that_of_the_text_segmented(family, trained, lines_of):
    vocabulary = trained(family)
    lines = lines_of("aa", 100)
    cut = trim_vocabulary(vocabulary, {"aa": count_pieces(vocabulary, lines)}, coverage=0.8)
    assert cut.coverage["aa"] >= 0.8
    text = SegmentedText(vocabulary, lines)
    change = segmentation_change(text, vocabulary, cut.after, cut.new_ids)
    assert change.tokens_after >= change.tokens_before
    kept = np.isin(np.arange(len(vocabulary)), cut.kept)
    assert cut.coverage["aa"] == covered_shares(vocabulary, text.counts[None], kept)[0]


def test_like_halves_leave_nothing_for_more_lines_to_change(trained, lines_of):
    vocabulary = trained("unigram")
    counts = count_pieces(vocabulary, lines_of("aa", 100))
    cut = trim_vocabulary(vocabulary, {"aa": 2 * counts}, coverage=0.95)
    told = more_lines(cut, {"aa": np.stack([counts, counts])})["aa"]
    assert told.coverage_same_half == told.coverage_other_half == cut.coverage["aa"]
    assert (told.pieces_of_one_half, told.tokens_of_one_half) == (0, 0)


def test_halves_of_few_lines_disagree_more_than_halves_of_many(trained, lines_of):
    vocabulary = trained("unigram")
    gaps = []
    for count in (10, 400):
        text = SegmentedText(vocabulary, lines_of("aa", count))
        told = more_lines(trim_vocabulary(vocabulary, {"aa": text.counts}), {"aa": text.halves})["aa"]  # fmt: skip
        gaps.append(told.coverage_same_half - told.coverage_other_half)
    assert gaps[0] > gaps[1] >= 0
    assert told.pieces_of_one_half > 0


def test_what_one_half_alone_keeps_is_counted_by_hand():
    halves = {"aa": [[0, 6, 2, 0, 0], [0, 5, 0, 2, 1]], "bb": [[0, 0, 0, 0, 4], [0, 0, 0, 0, 4]]}
    cut = trim_vocabulary(tiny(), {code: np.sum(rows, axis=0) for code, rows in halves.items()})
    told = more_lines(cut, halves)
    assert told["aa"].coverage_same_half == 1
    assert (
        told["aa"].coverage_other_half == (6 / 8 + 6 / 8) / 2
    )  # `gh` stays for the other language
    assert told["aa"].pieces_of_one_half == 2
    assert told["aa"].tokens_of_one_half == 4 / 16
    assert told["bb"].as_record()["pieces_of_one_half"] == 0


def test_a_single_line_has_no_halves():
    cut = trim_vocabulary(tiny(), {"aa": [0, 1, 0, 0, 0]})
    assert more_lines(cut, {"aa": [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]}) == {}


@pytest.mark.parametrize("rule", [{"top": 5}, {"budget": 5}, {"threshold": 1e-6, "multiple": 5}])
def test_room_beyond_what_languages_use_goes_to_pieces_of_their_scripts(rule):
    pieces = ["[UNK]", "dog", "жук", "9", "дом", "##a9", "cat", "дog"]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {piece: number for number, piece in enumerate(pieces)}}  # fmt: skip
    vocabulary = parse_vocabulary({"added_tokens": [], "model": model}, name="tiny")
    counts = np.zeros(len(pieces), dtype=np.int64)
    counts[1] = 7
    cut = trim_vocabulary(vocabulary, {"en": counts}, characters="seen", **rule)
    assert [pieces[number] for number in cut.kept] == ["[UNK]", "dog", "жук", "##a9", "cat"]
    counts[2] = 5  # now the languages are written in both scripts
    cut = trim_vocabulary(vocabulary, {"en": counts}, characters="seen", **rule)
    assert [pieces[number] for number in cut.kept] == ["[UNK]", "dog", "жук", "дом", "##a9"]
