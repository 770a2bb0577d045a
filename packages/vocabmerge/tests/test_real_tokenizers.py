"""Published tokenizers, cut down: what freshly trained ones do not have, and what their files leave out."""

import copy
import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from vocabmerge import (
    VocabularyError,
    VocabularyMap,
    carry,
    compare_segmentation,
    merge_vocabularies,
    open_tokenizer,
    parse_vocabulary,
    read_vocabulary,
    save_merged,
    tokenizer_digest,
    trim_vocabulary,
)
from vocabmerge.carry.pieces import matching_ids, segment_in_old_pieces
from vocabmerge.carry.source import Source
from vocabmerge.count import count_pieces
from vocabmerge.families.union_words import SegmentedWords, segment_words
from vocabmerge.families.wordpiece_hiding import pieces_to_hide
from vocabmerge.tokenizer_file.library_form import library_form
from vocabmerge.union.teacher_segmentations import segment_corpus_words

FOLDER = Path(__file__).parent / "real_tokenizers"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
SENTENCES = [
    "The quick brown foxes weren't jumping over 13 lazy dogs, were they?",
    "Ein Fußgänger überquerte die Straße; danach ging er in die Bücherei.",
    "Mtoto anasoma kitabu kikubwa shuleni kila siku asubuhi.",
    "中文的句子，没有空格。 Кошка сидит на окне.",
    "naïve café ﬁne １２３ résumé",
    "two  spaces\tand a tab\n\n    indented   twice  ",
    "unseen: Ω≈ç√ 🦊 zzzqx bé",
    "",
]

ODD = [
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 🇫🇮🇹🇷 👍🏽",
    "e\u0301\u0301a\u0308\u0323 Z\u0351\u036b\u0343",
    "שלום עולם مرحبا بالعالم \u202eabc\u202c",
    "\ttabs\there\t\t and\r\n lines \n",
    "a" * 300,
    "\u200b\u00ad\ufeff zero\u200dwidth \x00 \x07",
    "İstanbul ıI ß ẞ ﬁ ½ ㎏",
    " ",
    "<0x41> ▁under ##hash Ġbyte </w>",
    "\U0010ffff 𓀀",
]


def published(name):
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def without_type(tokenizer):
    twin = copy.deepcopy(tokenizer)
    del twin["model"]["type"]
    return twin


def vocabulary(name, **changes):
    return parse_vocabulary({**published(name), **changes}, name=name)


def counts(read, lines):
    return count_pieces(read, [line for line in lines if line])


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_the_traits_that_the_copies_are_kept_for_are_in_them():
    spaces = [t for t in published("ModernBERT-base")["added_tokens"] if not t["content"].strip()]
    assert len(spaces) > 20
    assert all(token["normalized"] for token in spaces)
    assert published("gpt2")["model"]["continuing_subword_prefix"] == ""
    assert published("ModernBERT-base")["model"]["continuing_subword_prefix"] is None
    assert published("clip-vit")["model"]["end_of_word_suffix"] == "</w>"
    assert published("mistral-7b")["model"]["byte_fallback"]
    assert published("multilingual-e5-small")["normalizer"]["normalizers"][0]["type"] == "Precompiled"  # fmt: skip


# --- reading -----------------------------------------------------------------------------------------------------


def test_a_file_without_model_type_is_its_twin(name, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(without_type(published(name))))
    read, twin = vocabulary(name), read_vocabulary(tmp_path)
    assert (twin.family, twin.pieces, twin.keys, twin.roles) == (
        read.family,
        read.pieces,
        read.keys,
        read.roles,
    )
    assert twin.digest == read.digest == tokenizer_digest(without_type(published(name)))


def test_what_the_library_writes_has_the_digest_of_the_file(name):
    read = vocabulary(name)
    assert tokenizer_digest(json.loads(read.segmenter().to_str())) == read.digest


def test_pieces_have_the_ids_of_the_library(name):
    read = vocabulary(name)
    assert dict(read.ids) == read.segmenter().get_vocab(with_added_tokens=True)


METASPACE = {"type": "Metaspace", "replacement": "▁"}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (METASPACE, {**METASPACE, "split": True}, True),
        (METASPACE, {**METASPACE, "split": False}, False),
        (METASPACE, {**METASPACE, "prepend_scheme": "always"}, True),
        (METASPACE, {**METASPACE, "add_prefix_space": True}, True),
        (METASPACE, {**METASPACE, "prepend_scheme": "first"}, False),
        ({**METASPACE, "add_prefix_space": False}, {**METASPACE, "prepend_scheme": "never"}, True),
        ({**METASPACE, "add_prefix_space": False}, METASPACE, False),
        (BYTES, {**BYTES, "use_regex": True}, True),
        (BYTES, {**BYTES, "use_regex": False}, False),
    ],
)
def test_digests_are_equal_where_spellings_mean_the_same(one, other, alike, wrapped):
    def digest(pre_tokenizer):
        first = {"type": "Digits", "individual_digits": False}
        sequence = {"type": "Sequence", "pretokenizers": [first, pre_tokenizer]}
        before = sequence if wrapped else pre_tokenizer
        return tokenizer_digest({**published("multilingual-e5-small"), "pre_tokenizer": before})

    assert (digest(one) == digest(other)) is alike


@pytest.mark.parametrize(
    ("scheme", "pieces"),
    [
        ({"prepend_scheme": "always"}, ["▁die", "</s>", "▁die"]),
        ({"prepend_scheme": "first"}, ["▁die", "</s>", "die"]),
        ({"prepend_scheme": "never"}, ["die", "</s>", "die"]),
        ({"add_prefix_space": False}, ["die", "</s>", "die"]),
    ],
)
def test_every_prepend_scheme_is_kept_by_trim_and_merge(scheme, pieces):
    tokenizer = published("multilingual-e5-small")
    tokenizer["pre_tokenizer"] = {**METASPACE, **scheme}
    tokenizer["model"]["vocab"].append(["die", -9.0])
    tokenizer["added_tokens"][-1]["id"] = [p for p, _ in tokenizer["model"]["vocab"]].index("<mask>")  # fmt: skip
    read = parse_vocabulary(tokenizer, name="scheme")
    cut = trim_vocabulary(read, {"de": counts(read, ["die</s>die", *SENTENCES])})
    union = merge_vocabularies(
        [read, vocabulary("bert-base-uncased")],
        languages={"de": "scheme"},
        corpora={"de": SENTENCES},
        convention="roberta",
        normalizer="keep",
    )
    for one in (read.tokenizer, cut.tokenizer, union.teachers["scheme"]):
        opened = open_tokenizer(one, name="one")
        assert opened.encode("die</s>die", add_special_tokens=False).tokens == pieces


def test_a_tokenizer_that_the_library_cannot_open_is_one_sentence():
    broken = published("gpt2")
    del broken["pre_tokenizer"]["trim_offsets"]
    with pytest.raises(VocabularyError, match=r"gpt2: the tokenizers library cannot open it: .*trim_offsets"):  # fmt: skip
        parse_vocabulary(broken, name="gpt2")


# --- trim --------------------------------------------------------------------------------------------------------


def test_a_trim_keeps_the_counted_text_and_twins_stay_twins(name):
    read, twin = (parse_vocabulary(one, name=name) for one in (published(name), without_type(published(name))))  # fmt: skip
    text = SENTENCES[:3]
    cut = trim_vocabulary(read, {"xx": counts(read, text)})
    assert len(cut.kept) < len(read)
    assert trim_vocabulary(twin, {"xx": counts(twin, text)}).after.digest == cut.after.digest
    assert library_form(cut.tokenizer, name=name) == cut.tokenizer
    before, after = read.segmenter(), cut.after.segmenter()
    for line in text:
        assert after.encode(line).ids == cut.new_ids[before.encode(line).ids].tolist()


def test_words_spelled_in_characters_stay_as_they_are_whatever_the_corpus(name):
    read = vocabulary(name)
    cut = trim_vocabulary(read, {"xx": counts(read, ["the"])})
    before, after = read.segmenter(), cut.after.segmenter()
    spelled = 0
    for word in map("".join, product("abcdefghijklmnopqrstuvwxyzéß", repeat=2)):
        ids = before.encode(word, add_special_tokens=False).ids
        if {read.roles[number] for number in ids} <= {"byte", "character"}:
            spelled += 1
            kept = after.encode(word, add_special_tokens=False).ids
            assert kept == cut.new_ids[ids].tolist(), word
    assert spelled


def test_a_character_at_the_end_of_a_word_is_one(name):
    read = vocabulary(name)
    if ending := read.tokenizer["model"].get("end_of_word_suffix"):
        ends = [p for p in read.pieces if p.endswith(ending) and len(p) == len(ending) + 1]
        assert len(ends) > 100
        assert {read.roles[read.ids[piece]] for piece in ends} <= {"byte", "character"}


# --- carry -------------------------------------------------------------------------------------------------------


def test_a_vocabulary_matches_itself_piece_by_piece(name):
    read = vocabulary(name)
    live = [i for i, role in enumerate(read.roles) if role not in ("hole", "placeholder")]
    assert matching_ids(read, read)[live].tolist() == live


def test_letters_do_not_take_the_rows_of_fallback_bytes():
    old = vocabulary("mistral-7b")
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,?" if letter in old.ids]
    new = vocabulary("gpt2")
    match = matching_ids(new, old)
    for letter in letters:
        assert match[new.ids[letter]] == old.ids[letter] != old.ids[f"<0x{ord(letter):02X}>"]


def test_carrying_to_itself_copies_every_row(name):
    import torch

    read = vocabulary(name)
    rows = torch.randn(len(read), 3, generator=torch.Generator().manual_seed(0))
    made = carry(read, [Source(vocabulary=read, embedding=rows)])
    live = [i for i, role in enumerate(read.roles) if role not in ("hole", "placeholder")]
    assert torch.equal(made.embedding[live], rows[live])


def test_what_ends_a_word_is_spelled_with_an_end():
    read = vocabulary("clip-vit")
    cut = trim_vocabulary(read, {"xx": counts(read, SENTENCES[:1])})
    dropped = np.flatnonzero(cut.new_ids < 0).tolist()
    assert any(str(read.pieces[number]).endswith("</w>") for number in dropped)
    for number, ids in zip(dropped, segment_in_old_pieces(read, cut.after, dropped), strict=True):
        assert ids == cut.map[number].tolist() != []
        said = "".join(str(cut.after.pieces[new]) for new in ids)
        assert said == read.pieces[number]


# --- merge -------------------------------------------------------------------------------------------------------


def merged(*teachers, lines=SENTENCES, **options):
    codes = {f"l{number}": teacher.name for number, teacher in enumerate(teachers)}
    corpora = {code: [line for line in lines if line] for code in codes}
    options = {"normalizer": "keep", **options}
    return merge_vocabularies(teachers, languages=codes, corpora=corpora, **options)


def assert_languages_are_exact(union, teachers):
    for teacher in teachers:
        rows = union.maps[teacher.name].one_to_one()
        own, before = open_tokenizer(union.teachers[teacher.name], name="own"), teacher.segmenter()
        for line in SENTENCES:
            ids = before.encode(line, add_special_tokens=False).ids
            assert own.encode(line, add_special_tokens=False).ids == rows[ids].tolist(), line


@pytest.mark.parametrize(("one", "other"), [*combinations(NAMES, 2)])
def test_a_union_of_two_has_both_languages_exactly(one, other):
    teachers = [vocabulary(one), vocabulary(other)]
    union = merged(*teachers)
    assert_languages_are_exact(union, teachers)
    assert tokenizer_digest(union.tokenizer) == union.facts["digest"]
    swapped = [vocabulary(one), parse_vocabulary(without_type(published(other)), name=other)]
    assert merged(*swapped).facts["digest"] == union.facts["digest"]


@pytest.fixture(scope="module")
def teachers_and_union():
    teachers = [vocabulary(name) for name in NAMES]
    return teachers, merged(*teachers)


def test_a_union_of_all_has_every_language_exactly(teachers_and_union):
    teachers, union = teachers_and_union
    assert_languages_are_exact(union, teachers)


def test_transformers_opens_the_languages_of_a_union_as_their_teachers(
    teachers_and_union, tmp_path
):
    transformers = pytest.importorskip("transformers")
    teachers, union = teachers_and_union
    save_merged(union, tmp_path / "union")
    whole = transformers.AutoTokenizer.from_pretrained(tmp_path / "union")
    assert sorted(whole.get_vocab().values()) == [*range(union.facts["size"])]
    for code, name in union.languages.items():
        opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "union" / "languages" / code)
        teacher = teachers[NAMES.index(name)].segmenter()
        rows = union.maps[name].one_to_one()
        for text in [*SENTENCES, *ODD]:
            ids = teacher.encode(text, add_special_tokens=False).ids
            assert opened(text, add_special_tokens=False)["input_ids"] == rows[ids].tolist(), text


def test_a_word_alone_is_segmented_as_in_its_text(name):
    """Unions are fitted word by word; a word that alone looks otherwise would be fitted to nothing."""
    opened = vocabulary(name).segmenter()
    lines = [line for line in SENTENCES if line]
    text = segment_corpus_words(opened, np.arange(len(vocabulary(name))), lines)
    offsets, ids = segment_words(opened, text.words)
    assert ids.tolist() == text.ids.tolist()
    assert offsets.tolist() == text.offsets.tolist()


def test_a_fitted_union_follows_its_teachers_no_worse_than_an_unfitted_one():
    teachers = [vocabulary("gpt2"), vocabulary("ModernBERT-base")]
    alike = [one.words_alike for one in merged(*teachers).fidelity.values()]
    plain = merge_vocabularies(teachers, languages={}, normalizer="keep")
    opened = open_tokenizer(plain.tokenizer, name="plain")
    for teacher, share in zip(teachers, alike, strict=True):
        rows = plain.maps[teacher.name].one_to_one()
        before = compare_segmentation(opened, teacher.segmenter(), SENTENCES[:1], rows=rows)
        assert share >= before.words_alike


def test_no_prefix_and_an_empty_one_are_one_family():
    teachers = [vocabulary("gpt2"), vocabulary("ModernBERT-base")]
    union = merge_vocabularies(
        teachers, languages={"en": "gpt2", "de": "ModernBERT-base"}, normalizer="keep"
    )
    assert union.facts["family"] == "bpe-byte"
    assert not union.facts["mixed"]


@pytest.mark.parametrize("other", ["bert-base-uncased", "gpt2"])
def test_added_tokens_of_white_space_do_not_tear_words_apart(other):
    """A union whose normalizer makes them nothing must not look for nothing between all characters."""
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    first, spaced = vocabulary(other, normalizer=strip), vocabulary("ModernBERT-base")
    union = merged(first, spaced, normalizer="first")
    assert_languages_are_exact(union, [first, spaced])
    opened = open_tokenizer(union.tokenizer, name="union")
    sought = [t["content"] for t in union.tokenizer["added_tokens"] if t["normalized"]]
    assert all(opened.normalizer.normalize_str(content) for content in sought)
    tokens = opened.encode("over lazy foxes", add_special_tokens=False).tokens
    assert len(tokens) <= 6
    rows = union.maps["ModernBERT-base"].one_to_one()
    assert rows[spaced.ids["    "]] >= 0


def test_an_added_token_with_a_space_at_its_end_is_sought_with_it():
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    tokenizer = published("ModernBERT-base")
    tokenizer["added_tokens"].append({"id": 504, "content": "fox ", "normalized": True, **flags})
    union = merged(parse_vocabulary(tokenizer, name="added"), vocabulary("bert-base-uncased"))
    opened = open_tokenizer(union.tokenizer, name="union")
    assert "fox " in opened.encode("the fox is").tokens
    assert "fox " not in opened.encode("the foxes").tokens


@pytest.mark.parametrize("added_first", [True, False])
def test_an_added_token_that_is_another_teachers_piece_has_a_row_of_its_own(added_first):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    other = published("ModernBERT-base")
    pieces = (p for p in published("gpt2")["model"]["vocab"] if p.isascii() and p.isalpha())
    piece = next(p for p in pieces if len(p) > 2 and p not in other["model"]["vocab"])
    other["added_tokens"].append({"id": 504, "content": piece, "normalized": False, **flags})
    teachers = [vocabulary("gpt2"), parse_vocabulary(other, name="added")]
    union = merged(*(reversed(teachers) if added_first else teachers))
    assert_languages_are_exact(union, teachers)


def test_a_type_less_file_can_be_merged_into_few_rows():
    teachers = [
        parse_vocabulary(without_type(published("gpt2")), name="gpt2"),
        vocabulary("ModernBERT-base"),
    ]
    union = merged(*teachers, max_size=480)
    assert len(union.tokenizer["model"]["vocab"]) <= 480
    assert isinstance(union.maps["gpt2"], VocabularyMap)
    assert union.maps["gpt2"].counts["one_to_several"] > 0


@pytest.mark.parametrize("ours", [[[7], [], [8]], [[7], [6], []]])
@pytest.mark.parametrize("theirs", [[[7], [], [8]], [[7], [5], []], [[], [7], [5]]])
def test_a_word_without_pieces_blames_no_piece_of_another_word(monkeypatch, ours, theirs):
    def ragged(rows):
        return np.append(0, np.cumsum([len(row) for row in rows])), np.array([i for row in rows for i in row])  # fmt: skip

    words = ["a", "\u0301", "b"]
    offsets, ids = ragged(theirs)
    target = SegmentedWords(words=words, weight=np.array([0.5, 0.3, 0.2]), offsets=offsets, ids=ids)
    monkeypatch.setattr(
        "vocabmerge.families.wordpiece_hiding.segment_words", lambda *_: ragged(ours)
    )
    hidden = pieces_to_hide(np.ones(9, dtype=bool), lambda _: None, {"xx": target})
    used = {piece for row in theirs for piece in row}
    wrong = {row[0] for row, other in zip(ours, theirs, strict=True) if row and row != other}
    assert set(np.flatnonzero(hidden).tolist()) <= wrong
    assert wrong - used <= set(np.flatnonzero(hidden).tolist())


def test_no_trial_hides_what_the_model_cannot_do_without(monkeypatch):
    offsets, ids = np.array([0, 1, 2, 3]), np.array([3, 4, 5])
    target = SegmentedWords(words=["a", "b", "c"], weight=np.ones(3) / 3, offsets=offsets, ids=ids)
    monkeypatch.setattr(
        "vocabmerge.families.wordpiece_hiding.segment_words", lambda *_: (offsets, ids - 3)
    )
    trials = []
    hidden = pieces_to_hide(
        np.array([False, True, False, True, True, True]),
        lambda rows: trials.append(rows.copy()),
        {"xx": target},
    )
    assert np.flatnonzero(hidden).tolist() == [1]
    assert [np.flatnonzero(trial).tolist() for trial in trials] == [[], [1]]
