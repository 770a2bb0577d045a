"""WordLevel beside the library's own: trimmed, merged, carried and refused."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from vocabmerge import (
    Source,
    VocabularyError,
    carry,
    count_pieces,
    merge_vocabularies,
    open_tokenizer,
    rewrite_tokenizer,
    trim_vocabulary,
)


def library_tokens(words, line):
    """What a WordLevel of the library makes of a line, with these words alone."""
    vocab = {word: number for number, word in enumerate(["[UNK]", *sorted(words)])}
    opened = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    opened.pre_tokenizer = pre_tokenizers.Whitespace()
    return opened.encode(line, add_special_tokens=False).tokens


def test_a_trim_is_the_librarys_model_of_the_words_that_stay(trained, lines_of):
    read, lines = trained("wordlevel"), lines_of("aa", 60, seed=4)
    cut = trim_vocabulary(read, {"aa": count_pieces(read, lines)}, top=150)
    assert len(cut.kept) == 150
    assert cut.ancestors == 0
    words = {piece for piece in cut.after.pieces if piece not in read.specials.values()}
    opened = cut.after.segmenter()
    for line in lines:
        tokens = opened.encode(line, add_special_tokens=False).tokens
        assert tokens == library_tokens(words, line)
    assert cut.map.counts == {"one_to_one": 150, "one_to_several": 0, "none": len(read) - 150}


def test_a_union_is_the_librarys_model_of_all_words(trained, lines_of):
    teachers = [trained("wordlevel", code, name=code) for code in ("aa", "bb")]
    union = merge_vocabularies(teachers, languages={"x": "aa", "y": "bb"})
    words = {
        piece
        for teacher in teachers
        for piece, role in zip(teacher.pieces, teacher.roles, strict=True)
        if role != "special"
    }
    opened = open_tokenizer(union.tokenizer, name="union")
    for line in [*lines_of("aa", 30), *lines_of("bb", 30)]:
        assert opened.encode(line, add_special_tokens=False).tokens == library_tokens(words, line)


@pytest.mark.parametrize("spelled_by", ["unigram", "wordpiece", "bpe-byte"])
def test_a_word_is_the_mean_of_the_pieces_that_another_family_makes_of_it(trained, spelled_by):
    new, old = trained("wordlevel"), trained(spelled_by)
    rows = torch.randn(len(old), 4, generator=torch.Generator().manual_seed(0))
    carried = carry(new, [Source(vocabulary=old, embedding=rows)]).embedding
    for number in new.having("normal").tolist()[:40]:
        ids = old.segmenter().encode(new.pieces[number], add_special_tokens=False).ids
        torch.testing.assert_close(carried[number], rows[ids].mean(dim=0))


def test_the_inside_of_a_word_is_no_word(trained):
    new, old = trained("wordpiece"), trained("wordlevel")
    inside = [i for i in new.having("normal").tolist() if new.keys[i][0] == "internal"]
    source = Source(vocabulary=old, embedding=torch.ones(len(old), 2))
    assert (carry(new, [source]).origin[inside] == 0).all()


def test_the_unknown_word_is_not_dropped(trained):
    read = trained("wordlevel")
    new_ids = np.arange(len(read)) - 1
    new_ids[:2] = [0, -1]
    with pytest.raises(VocabularyError, match=r"needs its unknown piece '\[UNK\]', keep it"):
        rewrite_tokenizer(read, new_ids)
