"""Lines of text as graphs of every kind read them, and what of their answers is compared; the graphs are functions here."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bistil.errors import ExportError
from bistil.export.judge.graph_reader import GraphReader
from bistil.export.judge.text_answers import text_answers

LINES = ["ab cd ef", "gh", "ab hg fe dc ba"]
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def ask(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[Any]]]:
    """Of a graph with certain outputs, which a function of its inputs computes, how it is asked and what it answers."""

    def asked(
        lines: Sequence[str],
        outputs: dict[str, tuple[str, ...]],
        compute: Callable[[Arrays], Sequence[Any]],
        *,
        labels: tuple[str, ...] = (),
        task: str | None = None,
        pairs: bool = False,
        several_labels: bool = False,
        regression: bool = False,
        prompt: str = "",
    ) -> tuple[Any, list[Any]]:
        graph: Any = SimpleNamespace(
            inputs=("input_ids", "attention_mask"), outputs=outputs, labels=labels, tokenizer=tokenizer, longest=40,
            pieces=len(tokenizer), about={"task": task}, pairs=pairs, several_labels=several_labels, regression=regression,
        )  # fmt: skip
        monkeypatch.setattr(
            # the package's attribute `export` is the function
            sys.modules["bistil.export.judge.graph_reader"], "open_session",
            lambda _file: lambda fed: dict(zip(outputs, map(np.asarray, compute(fed)), strict=True)),
        )  # fmt: skip
        how = text_answers(graph, prompt)
        reader = GraphReader(graph, Path("none.onnx"))
        return how, how.ask(reader, how.rows(lines, "en"), "en", lambda *_told: None)

    return asked


def _ids(tokenizer: Any, line: str) -> list[int]:
    return [int(number) for number in tokenizer(line, add_special_tokens=False)["input_ids"]]


def test_states_are_averaged_over_the_texts_own_tokens(ask: Any, tokenizer: Any) -> None:
    how, answers = ask(
        LINES, {"last_hidden_state": ("batch", "sequence", "width")},
        lambda fed: [np.stack([fed["input_ids"], fed["input_ids"] ** 2], axis=-1).astype(np.float32)],
    )  # fmt: skip

    for line, answer in zip(LINES, answers, strict=True):
        ids = np.array(_ids(tokenizer, line))
        np.testing.assert_allclose(answer, [ids.mean(), (ids**2).mean()], rtol=1e-6)
    assert set(how.gated) == {"cosine", "nearest kept among 10"}


def test_a_sentence_vector_is_taken_as_it_is_with_the_prompt(ask: Any, tokenizer: Any) -> None:
    _, answers = ask(
        LINES,
        {"last_hidden_state": ("batch", "sequence", "width"), "sentence_embedding": ("batch", "width")},
        lambda fed: [fed["input_ids"][..., None], (fed["input_ids"] * fed["attention_mask"])[:, :3]],
        prompt="hh ",
    )  # fmt: skip

    expected = [tokenizer(f"hh {line}")["input_ids"][:3] for line in LINES]
    assert np.array_equal(answers, expected)


def test_pieces_are_asked_for_where_they_are_masked_the_same_for_every_graph(
    ask: Any, tokenizer: Any
) -> None:
    fed_ids: list[Any] = []

    def pieces(fed: Arrays) -> list[Any]:
        fed_ids.append(fed["input_ids"])
        return [np.eye(len(tokenizer))[(fed["input_ids"] + 1) % len(tokenizer)]]

    outputs = {"logits": ("batch", "sequence", "vocabulary")}
    how, answers = ask(LINES, outputs, pieces)
    ask(LINES, outputs, pieces)

    assert np.array_equal(fed_ids[0], fed_ids[1])
    masked = [(row == tokenizer.mask_token_id).sum() for row in fed_ids[0]]
    own = [len(_ids(tokenizer, line)) for line in sorted(LINES, key=len, reverse=True)]
    assert masked == [max(1, round(0.15 * count)) for count in own]
    assert all((answer == tokenizer.mask_token_id + 1).all() for answer in answers)
    assert how.compare(answers, answers)[how.gated[0]].tolist() == [1, 1, 1]


def test_words_are_tagged_at_their_first_token(ask: Any, tokenizer: Any) -> None:
    how, answers = ask(
        LINES, {"logits": ("batch", "sequence", "labels")},
        lambda fed: [np.eye(5)[fed["input_ids"] % 5]], labels=tuple("vwxyz"),
    )  # fmt: skip

    for line, tags in zip(LINES, answers, strict=True):
        assert tags.tolist() == [_ids(tokenizer, word)[0] % 5 for word in line.split()]
    changed = [tags.copy() for tags in answers]
    changed[0][0] += 1
    assert how.compare(answers, changed)["same label of a word"].tolist() == [2 / 3, 1, 1]


def test_a_classifier_reads_texts_or_pairs_of_them(ask: Any, tokenizer: Any) -> None:
    outputs, labels = {"logits": ("batch", "labels")}, ("no", "yes")

    def lengths(fed: Any) -> list[Any]:
        return [np.stack([fed["attention_mask"].sum(axis=1), np.full(len(fed["input_ids"]), 6)], axis=1)]  # fmt: skip

    how, single = ask(LINES, outputs, lengths, labels=labels)
    _, double = ask([f"{line}\t{line}" for line in LINES], outputs, lengths, labels=labels)

    own = [len(_ids(tokenizer, line)) for line in LINES]
    assert [answer[0] for answer in single] == [count + 2 for count in own]
    assert [answer[0] for answer in double] == [2 * count + 3 for count in own]
    flipped = [answer[::-1] for answer in single]
    assert how.compare(single, flipped)["same label"].tolist() == [0, 0, 0]
    assert how.gated == ("same label",)


def test_a_rerankers_passages_are_its_querys_own_and_those_behind(ask: Any) -> None:
    lines = ["ab\tab cd", "ab\tef", "gh\tgh gh", "cd\tdc"]
    how, answers = ask(
        lines, {"logits": ("batch", "labels")}, lambda fed: [(fed["input_ids"] @ np.arange(fed["input_ids"].shape[1]) ** 2)[:, None]], pairs=True
    )  # fmt: skip

    assert how.rows(lines, "en") == [
        ("ab", "ab cd"), ("ab", "ef"), ("ab", "gh gh"),
        ("gh", "gh gh"), ("gh", "dc"), ("gh", "ab cd"),
        ("cd", "dc"), ("cd", "ab cd"), ("cd", "ef"),
    ]  # fmt: skip
    assert [len(scores) for scores in answers] == [3, 3, 3]
    reversed_order = [-scores for scores in answers]
    assert how.compare(answers, reversed_order)["pairs in the same order"].max() == 0
    assert how.compare(answers, answers)["pairs in the same order"].min() == 1
    assert how.rows(["ab", "cd", "ef"], "en")[:2] == [("ab", "cd"), ("ab", "ef")]


def test_passages_that_make_no_order_are_refused(ask: Any) -> None:
    with pytest.raises(ExportError, match="en: its lines have 2 different passages, and 3 are"):
        ask(["ab\tcd", "cd\tcd", "ef\tgh"], {"logits": ("batch", "labels")}, None, pairs=True)


def test_a_span_is_the_best_one_inside_the_passage(ask: Any, tokenizer: Any) -> None:
    question, passage = "ab cd", "ef gh ab cd"

    def ends(fed: Arrays) -> list[Any]:
        # The question's first token and the closing one score highest, and neither is in the passage.
        places = np.arange(fed["input_ids"].shape[1])[None, :].repeat(len(fed["input_ids"]), 0)
        last = fed["attention_mask"].sum(axis=1, keepdims=True) - 1
        return [np.where(places == 1, 9.0, -places), np.where(places == last, 9.0, places)]

    how, [answer] = ask([f"{question}\t{passage}"], {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")}, ends)  # fmt: skip

    assert answer == (0, len(_ids(tokenizer, passage)) - 1)
    assert how.compare([answer], [(0, 0)])["same span"].tolist() == [0]
    with pytest.raises(ExportError, match=r"en: this model reads lines `question TAB passage`, got 'ab cd'; put a tab"):  # fmt: skip
        how.rows(["ab cd"], "en")


def test_a_parser_is_judged_by_test_sets() -> None:
    graph: Any = SimpleNamespace(outputs={"arcs": ("sentences", "words", "heads")}, labels=(), pairs=False, about={"task": "dp"})  # fmt: skip
    with pytest.raises(ExportError, match="'dp' reads more than lines of text, so that --text cannot judge it; give its test sets with --data"):  # fmt: skip
        text_answers(graph)


@pytest.mark.parametrize(("several", "expected"), [(False, [1, 1]), (True, [1, 0])])
def test_where_several_labels_hold_all_of_a_texts_must_stay(
    ask: Any, several: bool, expected: list[int]
) -> None:
    how, _ = ask(
        LINES, {"logits": ("batch", "labels")}, lambda fed: [np.zeros((len(fed["input_ids"]), 3), "f4")],
        labels=("joy", "anger", "fear"), several_labels=several,
    )  # fmt: skip

    whole = [np.array([3, 1, -2], "f4"), np.array([3, 1, -2], "f4")]
    small = [np.array([2, 2, -9], "f4"), np.array([3, -1, -2], "f4")]
    assert how.compare(whole, [small[0] + [1, 0, 0], small[1]])["same label"].tolist() == expected


def test_scores_of_texts_keep_their_order_and_their_size(ask: Any, tokenizer: Any) -> None:
    how, answers = ask(
        LINES, {"logits": ("batch", "labels")}, lambda fed: [fed["input_ids"].sum(axis=1, keepdims=True).astype("f4")],
        labels=("LABEL_0",), regression=True,
    )  # fmt: skip

    assert [float(score) for (score,) in answers] == [sum(tokenizer(line)["input_ids"]) for line in LINES]  # fmt: skip
    assert how.gated == ("pairs in the same order",)
    kept = how.compare(answers, [2 * score for score in answers])
    assert kept["pairs in the same order"].tolist() == [1] * len(LINES)
    assert kept["nearness of scores"].min() < 1
