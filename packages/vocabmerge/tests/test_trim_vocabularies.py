"""A vocabulary is cut down; what stays does what it did."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from vocabmerge.errors import VocabularyError
from vocabmerge.maps import load_map
from vocabmerge.tokenizer_file.rewrite import rewrite_tokenizer
from vocabmerge.tokenizer_file.vocabulary import parse_vocabulary
from vocabmerge.trim.segmentation_change import SegmentationChange, segmentation_change
from vocabmerge.trim.segmented_text import SegmentedText, segment
from vocabmerge.trim.trim import trim_vocabulary

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
FAMILIES = ("wordpiece", "unigram", "bpe-byte", "bpe-metaspace", "bpe-byte-fallback", "bpe-plain")
EXACT = {"deadline": None, "derandomize": True}


def language(seed, letters, lines=300):
    """Lines of a made-up language: Zipf-distributed words of its own syllables, some digits and punctuation."""
    draw = random.Random(seed)
    syllables = [a + b for a in letters for b in "aeiouäø"]
    words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3, 4)))) for _ in range(250)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [
        " ".join(draw.choices(words, weights, k=draw.randint(3, 9)))
        + draw.choice((".", "!", " 42"))
        for _ in range(lines)
    ]


TEXT = {"xx": language(1, "bdgkl"), "yy": language(2, "mnprs"), "zz": language(3, "tvwzж")}


def tokenizer(family):
    lines = [line for text in TEXT.values() for line in text]
    alphabet = sorted({character for line in lines for character in line if character != " "})
    if family == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=False)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=700, special_tokens=BERT, initial_alphabet=alphabet
        )
        made.train_from_iterator(lines, trainer)
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        made.enable_padding(pad_id=0, pad_token="[PAD]")
    elif family == "unigram":
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=700, special_tokens=ROBERTA, unk_token="<unk>", initial_alphabet=alphabet
        )
        made.train_from_iterator(lines, trainer)
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
        made.enable_truncation(32)
    elif family == "bpe-byte":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=ROBERTA,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        made.train_from_iterator(lines, trainer)
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    elif family == "bpe-plain":
        made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.BPEDecoder("</w>")
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=ROBERTA,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
        )
        made.train_from_iterator(lines, trainer)
    else:
        fallback = family == "bpe-byte-fallback"
        specials = ROBERTA + ([f"<0x{byte:02X}>" for byte in range(256)] if fallback else [])
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=700 + len(specials), special_tokens=specials, initial_alphabet=alphabet
        )
        made.train_from_iterator(lines, trainer)
    made.add_special_tokens(["<lang>"])
    made.add_tokens(["foo_bar"])
    parsed = json.loads(made.to_str())
    parsed["added_tokens"] = [
        t for t in parsed["added_tokens"] if not t["content"].startswith("<0x")
    ]
    return parsed  # fmt: skip


VOCABULARIES = {family: parse_vocabulary(tokenizer(family), name=family) for family in FAMILIES}


def count(vocabulary, lines):
    segmenter = vocabulary.segmenter()
    ids = [i for e in segmenter.encode_batch(lines, add_special_tokens=False) for i in e.ids]
    return np.bincount(ids, minlength=len(vocabulary))


def counts_of(vocabulary, languages):
    return {name: count(vocabulary, TEXT[name]) for name in languages}


def change_of(vocabulary, cut, lines):
    text = SegmentedText(vocabulary, lines)
    change = segmentation_change(text, vocabulary, cut.after, cut.new_ids)
    assert change == every_line_again(vocabulary, cut.after, cut.new_ids, lines)
    return change


def every_line_again(before, after, new_ids, lines):
    """What changed, by segmenting everything with both vocabularies."""
    (old, old_lengths), (new, new_lengths) = (
        segment(vocabulary.segmenter(), lines) for vocabulary in (before, after)
    )
    moved = np.split(new_ids[old], np.cumsum(old_lengths)[:-1])
    rows = np.split(new, np.cumsum(new_lengths)[:-1])
    return SegmentationChange(
        lines=len(lines),
        words=sum(len(line.split()) for line in lines),
        lines_unchanged=sum(map(np.array_equal, moved, rows)),
        tokens_before=len(old),
        tokens_after=len(new),
        unknown_before=int((old == before.special_id("unk")).sum()),
        unknown_after=int((new == after.special_id("unk")).sum()),
    )


def behaviour(vocabulary, lines):
    """Pieces of every line, specials included."""
    segmenter = Tokenizer.from_str(json.dumps(vocabulary.tokenizer))
    return [segmenter.encode(line, line[:9]).tokens for line in lines]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_counted_text_is_segmented_as_before(family):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx", "yy"]))

    assert len(cut.after) < len(vocabulary) - 100
    for name in ("xx", "yy"):
        change = change_of(vocabulary, cut, TEXT[name])
        assert change.lines_unchanged == change.lines == len(TEXT[name])
        assert change.tokens_after == change.tokens_before


def test_an_unknown_word_may_come_apart_when_the_piece_that_led_it_astray_goes():
    vocab = {"[UNK]": 0, "a": 1, "##bc": 2, "ab": 3, "##b": 4}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 9, "vocab": vocab}  # fmt: skip
    vocabulary = parse_vocabulary({"added_tokens": [], "model": model}, name="tiny")
    cut = trim_vocabulary(vocabulary, {"xx": [1, 9, 9, 0, 9]}, characters="all")

    change = change_of(vocabulary, cut, ["abc", "ab"])

    assert 3 not in cut.kept
    assert (change.unknown_before, change.unknown_after) == (1, 0)
    assert change.lines_unchanged == 0


@pytest.mark.parametrize("family", ["wordpiece", "bpe-byte"])
def test_pieces_that_round_a_size_up_are_no_ancestors(family):
    counts = counts_of(VOCABULARIES[family], ["xx"])
    cut = trim_vocabulary(VOCABULARIES[family], counts, threshold=1e-3)
    rounded = trim_vocabulary(VOCABULARIES[family], counts, threshold=1e-3, multiple=500)
    assert len(rounded.kept) > len(cut.kept) + 20
    assert rounded.ancestors == cut.ancestors


@pytest.mark.parametrize("family", FAMILIES)
def test_only_bpe_has_ancestors_and_without_them_its_counted_text_would_change(family):
    vocabulary = VOCABULARIES[family]
    counts = counts_of(vocabulary, ["xx"])
    cut = trim_vocabulary(vocabulary, counts)
    assert (cut.ancestors > 0) == family.startswith("bpe")
    if cut.ancestors:
        used = counts["xx"] > 0
        used[vocabulary.having("special", "added", "byte", "character")] = True
        new_ids = np.where(used, np.cumsum(used) - 1, -1)
        childless = parse_vocabulary(rewrite_tokenizer(vocabulary, new_ids), name="childless")
        change = every_line_again(vocabulary, childless, new_ids, TEXT["xx"])
        assert change.lines_unchanged < change.lines


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_characters_every_letter_of_a_dropped_language_still_has_a_piece(family):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), top=420, characters="all")
    change = change_of(vocabulary, cut, TEXT["zz"])
    assert change.unknown_before == change.unknown_after == 0
    assert change.tokens_after > change.tokens_before


@pytest.mark.parametrize("rule", [{"threshold": 1e-6}, {"top": 480}, {"budget": 480}])
@pytest.mark.parametrize("family", FAMILIES)
def test_trim_twice_equals_trim_once(family, rule):
    vocabulary = VOCABULARIES[family]
    once = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx", "zz"]), **rule)
    twice = trim_vocabulary(once.after, counts_of(once.after, ["xx", "zz"]), **rule)

    assert twice.tokenizer == once.tokenizer
    assert len(once.after) < len(vocabulary)
    if "threshold" not in rule:
        assert len(once.after) <= 480


@pytest.mark.parametrize("family", FAMILIES)
def test_trim_to_everything_is_the_identity(family):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), threshold=0)

    assert list(cut.after.pieces) == list(vocabulary.pieces)
    lines = [line for text in TEXT.values() for line in text]
    assert behaviour(cut.after, lines) == behaviour(vocabulary, lines)
    again = trim_vocabulary(cut.after, counts_of(cut.after, ["xx"]), threshold=0)
    assert again.tokenizer == cut.tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_dense_and_pieces_keep_their_order_and_scores(family):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["yy"]))
    opened = Tokenizer.from_str(json.dumps(cut.tokenizer))

    ids = sorted(opened.get_vocab().values())
    assert ids == list(range(len(cut.kept))) == list(range(opened.get_vocab_size()))
    assert list(cut.after.pieces) == [vocabulary.pieces[old] for old in cut.kept]
    if family == "unigram":
        in_model = [old for old in cut.kept if not np.isnan(vocabulary.scores[old])]
        assert (
            cut.after.scores[cut.new_ids[in_model]].tolist() == vocabulary.scores[in_model].tolist()
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_specials_padding_truncation_and_added_tokens_still_work(family):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), top=420)
    old = Tokenizer.from_str(json.dumps(vocabulary.tokenizer))
    new = Tokenizer.from_str(json.dumps(cut.tokenizer))
    lines = [f"{TEXT['xx'][0]} <lang> {TEXT['xx'][1]} foo_bar", TEXT["xx"][2], "ba 𐍈 ba"]

    marks = {*BERT, *ROBERTA, "<lang>", "foo_bar"}
    for a, b in zip(old.encode_batch(lines), new.encode_batch(lines), strict=True):
        old_pieces = [old.id_to_token(number) for number in a.ids]
        new_pieces = [new.id_to_token(number) for number in b.ids]
        assert [piece for piece in new_pieces if piece in marks] == [
            piece for piece in old_pieces if piece in marks
        ]
        assert a.type_ids[:3] == b.type_ids[:3]
    assert cut.after.specials == vocabulary.specials
    assert {t["content"] for t in cut.tokenizer["added_tokens"]} >= {"<lang>", "foo_bar"}
    assert cut.tokenizer.get("truncation") == vocabulary.tokenizer.get("truncation")  # fmt: skip


@settings(max_examples=25, **EXACT)
@given(data=st.data())
@pytest.mark.parametrize("family", FAMILIES)
def test_text_made_of_kept_pieces_is_segmented_identically(family, data):
    vocabulary = VOCABULARIES[family]
    counts = data.draw(
        st.lists(st.integers(0, 5), min_size=len(vocabulary), max_size=len(vocabulary)).filter(any)
    )
    cut = trim_vocabulary(vocabulary, {"any": counts})
    lines = data.draw(st.lists(st.sampled_from(TEXT["xx"] + TEXT["yy"]), min_size=1, max_size=40))
    words = sorted({word for line in lines for word in line.split()})

    old = vocabulary.segmenter().encode_batch(words, add_special_tokens=False)
    new = cut.after.segmenter().encode_batch(words, add_special_tokens=False)

    kept = set(cut.kept.tolist())
    checked = [(a, b) for a, b in zip(old, new, strict=True) if kept.issuperset(a.ids)]
    assert all(a.tokens == b.tokens for a, b in checked)


@settings(max_examples=15, **EXACT)
@given(data=st.data())
@pytest.mark.parametrize("family", ["wordpiece", "bpe-byte"])
def test_with_the_counts_carried_over_any_threshold_is_stable(family, data):
    vocabulary = VOCABULARIES[family]
    counts = np.array(
        data.draw(
            st.lists(st.integers(0, 50), min_size=len(vocabulary), max_size=len(vocabulary)).filter(
                any
            )
        )
    )
    threshold = data.draw(st.floats(1e-6, 3e-3))
    once = trim_vocabulary(vocabulary, {"any": counts}, threshold=threshold)
    if not counts[once.kept].any():
        return
    twice = trim_vocabulary(once.after, {"any": counts[once.kept]}, threshold=threshold)
    assert twice.tokenizer == once.tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_keeps_kept_pieces_and_spells_the_others_with_their_own_text(family, tmp_path):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), top=430, characters="all")

    cut.map.save(tmp_path / "map.safetensors")
    found = load_map(tmp_path / "map.safetensors")

    assert found.one_to_one()[cut.kept].tolist() == list(range(len(cut.kept)))
    assert found.teacher_digest == vocabulary.digest
    assert found.student_digest == cut.after.digest
    several = 0
    for old in np.flatnonzero(cut.new_ids < 0):
        spelled = [cut.after[new].key for new in found[old]]
        several += len(spelled) > 1
        assert b"".join(text for _, text in spelled) == vocabulary[old].key[1]
        assert spelled[0][0] == vocabulary[old].key[0] or "isolated" in (
            spelled[0][0],
            vocabulary[old].key[0],
        )
    assert several > 50


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dropped_piece_is_spelled_as_the_trimmed_model_itself_would(family):
    vocabulary = VOCABULARIES[family]
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), top=430, characters="all")
    model = cut.after.segmenter().model
    for old in np.flatnonzero(cut.new_ids < 0).tolist():
        piece = vocabulary.pieces[old]
        if family == "bpe-plain" and not piece.endswith("</w>"):
            continue  # the library cannot be asked for the inside of a word alone
        if not piece.startswith("##"):
            text = piece.removesuffix("</w>")  # which the library adds itself
            assert cut.map[old].tolist() == [token.id for token in model.tokenize(text)]


def test_a_fair_budget_serves_the_small_language_that_top_forgets():
    vocabulary = VOCABULARIES["wordpiece"]
    counts = counts_of(vocabulary, ["xx", "yy", "zz"])
    flat = np.ones(len(vocabulary), dtype=int)
    counts["flat"] = flat  # a language that spreads its tokens evenly has no probable piece

    fair = trim_vocabulary(vocabulary, counts, budget=450)
    top = trim_vocabulary(vocabulary, counts, top=450)

    assert len(fair.kept) == len(top.kept) == 450
    assert min(fair.coverage.values()) >= min(top.coverage.values())
    assert fair.bound is not None
    assert min(fair.coverage.values()) <= fair.bound


def test_protected_ids_stay():
    vocabulary = VOCABULARIES["unigram"]
    dropped = int(
        np.flatnonzero(trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"])).new_ids < 0)[-1]
    )
    cut = trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), protect=[dropped, -1, 10**9])
    assert cut.new_ids[dropped] >= 0


def test_holes_in_the_ids_are_closed():
    holed = parse_vocabulary(
        {
            "added_tokens": [],
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {"[UNK]": 2, "a": 5, "##b": 9, "ab": 12}},
        },
        name="holed",
    )  # fmt: skip
    cut = trim_vocabulary(holed, {"en": np.arange(13)}, threshold=0)
    assert cut.tokenizer["model"]["vocab"] == {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3}
    assert cut.kept.tolist() == [2, 5, 9, 12]


def test_the_cost_of_an_unknown_character_stays_as_it_was():
    """`x` alone is no piece. The unknown costs 10 more than the lowest score, and that must not rise by the cut."""
    scores = {"<unk>": 0, "b": -30, "y": -30, "xy": -40, "yb": -1, "rare": -100}
    vocabulary = parse_vocabulary(
        {
            "added_tokens": [],
            "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [[*entry] for entry in scores.items()]},
        },
        name="unknown",
    )  # fmt: skip
    cut = trim_vocabulary(vocabulary, {"en": count(vocabulary, ["xyb", "yb"])})
    assert cut.after.segmenter().encode("xyb").tokens == ["xy", "b"]


def test_two_rules_at_once_are_refused():
    vocabulary = VOCABULARIES["unigram"]
    with pytest.raises(VocabularyError, match=r"one rule .* got threshold and top"):
        trim_vocabulary(vocabulary, counts_of(vocabulary, ["xx"]), threshold=0.1, top=5)


def test_an_empty_language_is_refused_by_name():
    vocabulary = VOCABULARIES["unigram"]
    empty = np.zeros(len(vocabulary), dtype=int)
    with pytest.raises(VocabularyError, match="'qq': its corpus has no token"):
        trim_vocabulary(vocabulary, {**counts_of(vocabulary, ["xx"]), "qq": empty})


def test_counts_of_another_vocabulary_are_refused():
    with pytest.raises(VocabularyError, match=r"expected counts of \d+ pieces of unigram"):
        trim_vocabulary(VOCABULARIES["unigram"], {"xx": [1, 2, 3]})
