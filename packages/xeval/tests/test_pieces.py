from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xeval.encoder import open_tokenizer
from xeval.errors import XevalError
from xeval.task_templates.batches import IGNORED, by_length, pad_labels, pad_rows, place_words
from xeval.task_templates.heads import ChoiceHead, word_states
from xeval.task_templates.word_tokenization import Encoded, Pieces
from xeval.tasks import task_of
from xeval.tasks.qa import Question

SENTENCES = [
    ["das", "haus", "."],
    ["unbekannt" * 3, "\u200b", "日本", "das"],
    ["hund"] * 60,
]


@pytest.mark.parametrize("kind", ["bert", "modern"])
@pytest.mark.parametrize("limit", [8, 16, 64])
def test_every_word_is_in_exactly_one_row_in_order_and_rows_fit(
    kind: str, limit: int, models: Callable[[str], Path]
) -> None:
    pieces = Pieces(open_tokenizer(str(models(kind))), limit)

    for words, made in zip(SENTENCES, pieces.encode_words(SENTENCES), strict=True):
        assert len(made.word_pieces) == len(words)
        assert all(size >= 1 for _, _, size in made.word_pieces)
        assert made.length <= limit
        assert made.word_pieces == sorted(made.word_pieces)
        covered = [
            (row, place)
            for row, first, size in made.word_pieces
            for place in range(first, first + size)
        ]
        inside = [
            (row, place)
            for row, ids in enumerate(made.rows)
            for place in range(len(pieces.before), len(ids) - len(pieces.after))
        ]
        assert len(set(covered)) == len(covered)
        # What belongs to no word is the space before one, where it is a piece of its own.
        spaces = sorted(set(inside) - set(covered))
        assert set(covered) <= set(inside)
        assert {pieces.tokenizer.decode([made.rows[row][place]]) for row, place in spaces} <= {" "}


def test_two_tokenizers_give_the_same_number_of_words(models: Callable[[str], Path]) -> None:
    counts = [
        [
            len(e.word_pieces)
            for e in Pieces(open_tokenizer(str(models(k))), 12).encode_words(SENTENCES)
        ]
        for k in ("bert", "modern")
    ]

    assert counts[0] == counts[1] == [len(s) for s in SENTENCES]


def test_a_word_that_the_tokenizer_makes_nothing_of_is_scored_as_its_unknown_token(
    models: Callable[[str], Path],
) -> None:
    from tokenizers import normalizers

    tokenizer = open_tokenizer(str(models("bert")))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")

    (made,) = Pieces(tokenizer, 16).encode_words([["das", "\u200b", "haus"]])

    assert [size for _, _, size in made.word_pieces][1] == 1
    assert made.rows[0][made.word_pieces[1][1]] == tokenizer.unk_token_id


def test_a_bare_space_before_a_word_does_not_stand_for_it() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [
        ("<unk>", 0.0),
        ("\u2581", -1.0),
        ("日本", -2.0),
        ("語", -2.0),
        ("\u2581das", -2.0),
    ]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>"), 16)

    (encoded,) = pieces.encode_words([["日本語", "das", "\u2581", "日本"]])

    assert encoded.rows == [[1, 2, 3, 4, 1, 1, 1, 2]]
    assert encoded.word_pieces == [(0, 1, 2), (0, 3, 1), (0, 4, 2), (0, 7, 1)]


def test_a_row_too_small_for_words_is_refused(models: Callable[[str], Path]) -> None:
    with pytest.raises(XevalError, match="room for 1 sub-words"):
        Pieces(open_tokenizer(str(models("bert"))), 3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=3), min_size=1, max_size=30),
    st.integers(20, 60),
)
def test_batches_hold_every_example_once_and_keep_the_budget(
    shapes: list[list[int]], tokens: int
) -> None:
    encoded = [Encoded(rows=[[1] * length for length in shape]) for shape in shapes]

    batches = list(by_length(encoded, tokens=tokens))

    assert sorted(i for batch in batches for i in batch) == list(range(len(encoded)))
    for batch in batches:
        rows = sum(len(encoded[i].rows) for i in batch)
        assert len(batch) == 1 or rows * max(encoded[i].length for i in batch) <= tokens


def test_word_states_are_those_of_the_words_own_pieces() -> None:
    # Two sentences; the first goes over two rows of different length.
    encoded = [
        Encoded(rows=[[9, 1, 2, 9], [9, 3, 9]], word_pieces=[(0, 1, 2), (1, 1, 1)]),
        Encoded(rows=[[9, 4, 5, 6, 9]], word_pieces=[(0, 1, 1), (0, 2, 2)]),
    ]
    rows = pad_rows(encoded, 0)
    places = place_words(encoded)
    hidden = rows["input_ids"][..., None].float()

    first = word_states(hidden, places, "first")[..., 0]
    mean = word_states(hidden, places, "mean")[..., 0]

    assert first.tolist() == [[1, 3], [4, 5]]
    assert mean.tolist() == [[1.5, 3], [4, 5.5]]
    assert rows["attention_mask"].sum(dim=1).tolist() == [4, 3, 5]
    assert pad_labels([[1], [2, 3]]).tolist() == [[1, IGNORED], [2, 3]]
    assert rows["input_ids"].dtype == torch.long


def test_questions_with_fewer_options_never_get_one_they_lack() -> None:
    hidden = torch.randn(5, 3, 8)
    encoded = [Encoded(rows=[[1, 2, 3]] * 2, labels=[1]), Encoded(rows=[[1, 2, 3]] * 3, labels=[0])]
    batch = task_of("choice").collate(encoded, 0)
    head = ChoiceHead(8, pooling="first").eval()

    outputs = head(hidden, batch)

    assert outputs["options"].isinf().tolist() == [[False, False, True], [False, False, False]]
    torch.testing.assert_close(outputs["options"][1], head.text(hidden, batch)["labels"][2:, 0])
    assert torch.isfinite(head.loss(outputs, batch))


@pytest.mark.parametrize("kind", ["bert", "modern"])
@pytest.mark.parametrize("limit", [8, 9, 12])
def test_a_row_too_short_for_a_question_reads_the_whole_context_in_windows(
    kind: str, limit: int, models: Callable[[str], Path]
) -> None:
    qa = task_of("qa")
    context = "das haus sieht ein buch . " * 5
    asked = Question("sieht das alte haus ein kleine buch ?", context, (("das", 0),))

    (made,), notes = qa.encode(
        Pieces(open_tokenizer(str(models(kind))), limit), [asked], ("start", "end")
    )

    assert made.length <= limit
    seen = {
        char
        for window in made.extra["offsets"]
        for place in window
        if place
        for char in range(*place)
    }
    assert {i for i, char in enumerate(context) if char != " "} <= seen
    assert made.labels[0] != (IGNORED, IGNORED)
    assert any("questions were longer" in note for note in notes)


def test_a_row_without_room_for_a_question_is_refused(models: Callable[[str], Path]) -> None:
    pieces = Pieces(open_tokenizer(str(models("bert"))), 5)

    with pytest.raises(
        XevalError, match="no room for a question and its context; raise max_length"
    ):
        task_of("qa").encode(pieces, [Question("q", "a", (("a", 0),))], ())
