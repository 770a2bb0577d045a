"""One class per tokenizer model: what a class promises, and that nobody else asks which model it is."""

import ast
from pathlib import Path

import numpy as np
import pytest

import vocabmerge
from vocabmerge.carry.pieces import segment_in_old_pieces
from vocabmerge.families import registry
from vocabmerge.families.model import TokenizerModel

SOURCES = Path(vocabmerge.__file__).parent
OUTSIDE = sorted(file for file in SOURCES.rglob("*.py") if file.parent.name != "families")


def model_names():
    kinds = [*registry.model_classes().values()]
    kinds += [variant for kind in kinds for variant in kind.__subclasses__()]
    families = {kind.family for kind in kinds if hasattr(kind, "family")}
    return families | set(registry.model_classes())


def compared_texts(tree):
    """Every string that a comparison, a `match` or a `startswith` of some code holds something against."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            places = [node]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "get"):
            places = node.args
        elif isinstance(node, ast.Subscript):
            places = [node.slice]
        else:
            continue
        for place in places:
            for part in ast.walk(place):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value, node.lineno


def test_no_file_outside_the_room_asks_which_model_a_tokenizer_has():
    names = model_names()
    assert {"WordPiece", "wordpiece", "Unigram", "unigram", "BPE", "bpe-byte"} <= names
    asked = [
        f"{file.relative_to(SOURCES)}:{line}: {text}"
        for file in OUTSIDE
        for text, line in compared_texts(ast.parse(file.read_text(encoding="utf-8")))
        if text in names or text.startswith("bpe")
    ]
    assert asked == []


def test_no_file_outside_the_room_looks_into_a_model():
    """Asking whether there are merges or scores in it is asking which model it is, too."""
    fields = {"merges", "unk_id", "unk_token", "byte_fallback", "max_input_chars_per_word"}
    fields |= {"continuing_subword_prefix", "end_of_word_suffix"}
    read = [
        f"{file.relative_to(SOURCES)}:{line}: {text}"
        for file in OUTSIDE
        for text, line in compared_texts(ast.parse(file.read_text(encoding="utf-8")))
        if text in fields
    ]
    assert read == []


def test_a_comparison_with_the_name_of_a_model_is_seen():
    code = 'if kind == "BPE" or x in ("a", "unigram") or {"wordpiece": 1}["wordpiece"]: pass'
    assert {text for text, _ in compared_texts(ast.parse(code))} >= {"BPE", "unigram", "wordpiece"}


def test_a_piece_is_the_piece_of_its_key(trained, family):
    """The string that a class writes for a key is the one that it read the key off."""
    read = trained(family, "bb")
    for piece, key, role in zip(read.pieces, read.keys, read.roles, strict=True):
        if role in ("normal", "character"):
            assert read.model.piece_of(key) == piece


def test_a_piece_that_is_there_is_segmented_into_itself_where_nothing_likelier_is(trained, family):
    read = trained(family)
    numbers = [i for i in read.having("normal").tolist() if not read.model.has_scores]
    segmented = read.model.segment([read.pieces[number] for number in numbers])
    assert segmented == [[number] for number in numbers]


def test_pieces_are_segmented_into_pieces_with_the_same_bytes(trained, family):
    read, foreign = trained(family), trained(family, "bb")
    keys = [foreign.keys[number] for number in foreign.having("normal").tolist()]
    keys += [read.keys[number] for number in read.having("normal").tolist()]
    segmented = read.model.segment([read.model.piece_of(key) for key in keys])
    known = [(key, ids) for key, ids in zip(keys, segmented, strict=True) if ids]
    assert len(known) > 10
    for key, ids in known:
        assert b"".join(read.keys[number][1] for number in ids) == key[1]
        assert read.keys[ids[0]][0] == key[0]


def test_a_model_that_no_file_is_about_is_refused_by_name(trained, monkeypatch):
    monkeypatch.setattr(registry, "model_classes", lambda: {"One": TokenizerModel, "Two": None})
    with pytest.raises(vocabmerge.VocabularyError, match="expected a Two or One model, got 'BPE'"):
        registry.model_of(trained("bpe-byte").tokenizer, name="strange")


def test_every_model_is_rewritten_into_one_that_the_library_opens(trained, family):
    read = trained(family)
    kept = np.ones(len(read), dtype=bool)
    kept[read.having("normal")[::2]] = False
    new_ids = np.where(kept, np.cumsum(kept) - 1, -1)
    opened = vocabmerge.open_tokenizer(
        vocabmerge.rewrite_tokenizer(read, new_ids), name="rewritten"
    )
    assert opened.get_vocab() == {
        read.pieces[old]: int(new_ids[old]) for old in np.flatnonzero(kept)
    }


def test_what_stands_inside_a_word_is_carried_from_pieces_inside_words():
    """BPE can mark the inside of words with a prefix, as WordPiece does; `##ab` is not `ab`."""

    def vocabulary(model):
        return vocabmerge.parse_vocabulary({"added_tokens": [], "model": model}, name="tiny")

    old = vocabulary(
        {
            "type": "BPE",
            "continuing_subword_prefix": "##",
            "vocab": {"a": 0, "b": 1, "##a": 2, "##b": 3},
            "merges": [],
        }
    )
    new = vocabulary(
        {
            "type": "WordPiece",
            "unk_token": "?",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 9,
            "vocab": {"?": 0, "ab": 1, "##ab": 2},
        }
    )
    assert segment_in_old_pieces(new, old, [1, 2]) == [[0, 3], [2, 3]]
