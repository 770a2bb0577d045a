"""Renumbering: the same segmentation under other ids, everywhere an id is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabmerge import VocabularyError, open_tokenizer, parse_vocabulary, rewrite_tokenizer

FAMILIES = ("wordpiece", "unigram", "bpe-byte", "bpe-byte-fallback", "bpe-metaspace", "bpe-plain")


def scattered(vocabulary, seed, spare=9):
    return np.random.default_rng(seed).permutation(len(vocabulary) + spare)[: len(vocabulary)]


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_a_renumbered_tokenizer_segments_as_before(trained, lines_of, family, seed):
    source = trained(family)
    new = scattered(source, seed)
    made = rewrite_tokenizer(source, new, size=len(source) + 9)
    before, after = source.segmenter(), open_tokenizer(made, name="after")
    for line in [*lines_of("aa", 25, seed=seed), "", "☃ 中文 \u0301", "<mask> [MASK] a"]:
        for wrapped in (True, False):
            ids = before.encode(line, add_special_tokens=wrapped).ids
            assert after.encode(line, add_special_tokens=wrapped).ids == new[ids].tolist()
    assert after.decode(new[ids].tolist()) == before.decode(ids)


def test_length_largest_id_and_size_agree(trained, family):
    source = trained(family)
    made = open_tokenizer(
        rewrite_tokenizer(source, scattered(source, 1), size=len(source) + 9), name="after"
    )
    numbers = sorted(made.get_vocab(with_added_tokens=True).values())
    assert numbers == list(range(len(source) + 9))
    assert made.get_vocab_size(with_added_tokens=False) == len(source) + 9


def test_placeholders_match_no_text_and_do_not_move_the_unknown_score(trained, lines_of):
    source = trained("unigram")
    made = rewrite_tokenizer(source, np.arange(len(source)) + 4)
    scores = [score for _, score in made["model"]["vocab"]]
    assert min(scores) == float(np.nanmin(source.scores))
    ids = open_tokenizer(made, name="after").encode("[hole 0] [hole 1] hole 0").ids
    assert min(ids) >= 4


def test_padding_unknown_added_tokens_and_every_post_processor_follow(trained):
    tokenizer = json.loads(json.dumps(trained("unigram").tokenizer))
    template = tokenizer["post_processor"]
    roberta = {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
        "trim_offsets": True,
        "add_prefix_space": True,
    }
    bert = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
    tokenizer["post_processor"] = {
        "type": "Sequence",
        "processors": [template, {"type": "Sequence", "processors": [roberta, bert]}],
    }
    tokenizer["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    source = parse_vocabulary(tokenizer, name="T")
    new = np.arange(len(source))[::-1]
    made = rewrite_tokenizer(source, new, rename={"<s>": "[CLS]"})
    outer = made["post_processor"]["processors"]
    assert outer[0]["special_tokens"]["[CLS]"]["ids"] == [new[0]]
    assert outer[1]["processors"][0]["sep"] == ["</s>", new[2]]
    assert outer[1]["processors"][1]["cls"] == ["[CLS]", new[0]]
    assert made["padding"]["pad_id"] == new[1]
    assert made["model"]["unk_id"] == new[source.tokenizer["model"]["unk_id"]]
    assert {token["content"]: token["id"] for token in made["added_tokens"]}["<mask>"] == new[4]
    assert source.tokenizer["padding"]["pad_id"] == 1


def test_an_added_token_outside_the_model_moves_into_it(trained):
    tokenizer = json.loads(json.dumps(trained("bpe-byte").tokenizer))
    token = {**tokenizer["added_tokens"][-1], "content": "<extra>", "id": len(trained("bpe-byte"))}
    tokenizer["added_tokens"].append(token)
    source = parse_vocabulary(tokenizer, name="T")
    made = rewrite_tokenizer(source, np.arange(len(source))[::-1])
    assert made["model"]["vocab"]["<extra>"] == 0
    assert open_tokenizer(made, name="after").encode("<extra>", add_special_tokens=False).ids == [0]


@pytest.mark.parametrize("family", ["wordpiece", "wordlevel", "unigram", "bpe-byte", "bpe-plain"])
@pytest.mark.parametrize("single_word", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_text_around_added_tokens_is_cut_as_before(trained, family, single_word, normalized):
    tokenizer = json.loads(json.dumps(trained(family).tokenizer))
    before = tokenizer.get("normalizer")
    tokenizer["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Lowercase"}, *([before] if before else [])],
    }
    flags = {"single_word": single_word, "normalized": normalized, "lstrip": False, "rstrip": False}
    contents = ["aaneanas", "<extra>"]
    for content in contents:
        number = len(parse_vocabulary(tokenizer, name="T"))
        tokenizer["added_tokens"].append({"id": number, "content": content, "special": False, **flags})  # fmt: skip
    source = parse_vocabulary(tokenizer, name="T")
    new = np.arange(len(source))
    dropped = source.having("normal")[-1]
    new[dropped:] -= 1
    new[dropped] = -1
    texts = [
        f"{left}{content}{right}"
        for content in ["aaneanas", "Aaneanas", "AANEANAS", "<extra>", "<Extra>"]
        for left in ["", "a", "an ", "-", "("]
        for right in ["", "s", "an", " a", ".", "_"]
    ]
    made = open_tokenizer(rewrite_tokenizer(source, new), name="after")
    numbers = sorted(made.get_vocab(with_added_tokens=True).values())

    cut = [encoding.ids for encoding in source.segmenter().encode_batch(texts)]
    kept = [ids for ids in cut if dropped not in ids]

    assert numbers == list(range(len(source) - 1))
    assert len(kept) > 50
    assert [
        encoding.ids
        for encoding, ids in zip(made.encode_batch(texts), cut, strict=True)
        if dropped not in ids
    ] == [new[ids].tolist() for ids in kept]


def test_a_single_word_that_would_become_a_piece_is_refused_by_name(trained):
    """A vocab.txt with a line twice leaves a hole, and the library then numbers a token before the last piece."""
    tokenizer = json.loads(json.dumps(trained("wordpiece").tokenizer))
    vocab, number = tokenizer["model"]["vocab"], len(trained("wordpiece"))
    vocab[max(vocab, key=vocab.get)] += 2
    flags = {"single_word": True, "normalized": True, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append({"id": number, "content": "aaneanas", "special": False, **flags})  # fmt: skip
    source = parse_vocabulary(tokenizer, name="T")
    new = np.full(len(source), -1)
    live = [i for i, piece in enumerate(source.pieces) if piece is not None]
    new[live] = np.arange(len(live))
    with pytest.raises(VocabularyError, match=r"^T: its added token 'aaneanas' stands for whole"):
        rewrite_tokenizer(source, new)


def test_no_piece_is_spelled_in_an_added_token_that_the_model_lacks(trained):
    for family in ("wordpiece", "unigram"):
        tokenizer = json.loads(json.dumps(trained(family).tokenizer))
        flags = {"single_word": True, "normalized": False, "lstrip": False, "rstrip": False}
        tokenizer["added_tokens"].append({"id": len(trained(family)), "content": "zzq", "special": False, **flags})  # fmt: skip
        assert parse_vocabulary(tokenizer, name="T").model.segment(["zzq"]) == [[]]


def test_dropping_a_merge_parent_drops_the_merge(trained):
    source = trained("bpe-metaspace")
    left, right = source.tokenizer["model"]["merges"][0]
    new = np.arange(len(source))
    new[source.ids[left + right]] = -1
    merges = rewrite_tokenizer(source, new)["model"]["merges"]
    assert [left, right] not in merges
    assert all(left + right not in pair for pair in merges)


def test_dropping_what_something_needs_is_refused_by_name(trained):
    for family, token in (("wordpiece", "[SEP]"), ("wordpiece", "[UNK]"), ("unigram", "<unk>")):
        source = trained(family)
        new = np.arange(len(source))
        new[source.ids[token]] = -1
        with pytest.raises(VocabularyError, match=r"needs") as caught:
            rewrite_tokenizer(source, new)
        assert token in str(caught.value)


def test_clashing_ids_and_wrong_lengths_are_refused(trained):
    source = trained("wordpiece")
    with pytest.raises(VocabularyError, match="already has"):
        rewrite_tokenizer(source, np.zeros(len(source), dtype=int))
    with pytest.raises(VocabularyError, match="one new id for each"):
        rewrite_tokenizer(source, [0, 1])
