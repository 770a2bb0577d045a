import random

import numpy as np
import pytest

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.metrics import value_of
from xeval.task_templates.entities import entity_counts, is_iob2, spans_of
from xeval.tasks import task_of
from xeval.tasks.ner import TASK


def random_tags(draw: random.Random, length: int) -> list[str]:
    # Invalid sequences included: a model may say anything.
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    return [draw.choice(tags) for _ in range(length)]


def test_f1_is_that_of_seqeval_in_strict_iob2_mode() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    draw = random.Random(0)
    drawn = [random_tags(draw, draw.randint(1, 6)) for _ in range(400)]
    gold = [tags for tags in drawn if is_iob2(tags)]
    guess = [random_tags(draw, len(tags)) if draw.random() < 0.5 else tags for tags in gold]

    counts = np.array([entity_counts(a, b) for a, b in zip(gold, guess, strict=True)])
    ours = value_of("f1", counts.sum(axis=0))

    assert len(gold) > 10
    assert 0 < float(ours) < 100
    assert float(ours) == pytest.approx(
        100 * metrics.f1_score(gold, guess, mode="strict", scheme=scheme.IOB2)
    )


def test_an_inside_that_continues_nothing_is_no_entity() -> None:
    assert spans_of(["I-PER", "O", "B-LOC", "I-PER"]) == {(2, 3, "LOC")}


def test_neighbours_of_one_type_are_two_entities() -> None:
    assert spans_of(["B-PER", "B-PER", "I-PER"]) == {(0, 1, "PER"), (1, 3, "PER")}


TURKISH = "Ali B-PERSON\nAnkara B-GPE\n2020 B-DATE\nyılında I-DATE\n. O\n\n"


def test_label_sets_meet_in_the_common_types_and_the_rest_is_named(tmp_path) -> None:
    path = tmp_path / "test.txt"
    path.write_text(TURKISH)

    (seen,), notes = TASK.view(TASK.read(path, None), Protocol())
    (own,), silence = TASK.view(TASK.read(path, None), Protocol(labels="own"))

    assert seen.labels == ("B-PER", "B-LOC", "O", "O", "O")
    assert notes == ["entity types counted: GPE as LOC, PERSON as PER; DATE as no entity"]
    assert own.labels[0] == "B-PERSON"
    assert silence == []


def test_a_type_that_the_source_lacks_is_refused_with_its_line(tmp_path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("a O\n\n" + TURKISH)
    labels = ("O", "B-PER", "I-PER")
    examples = TASK.read(path, None)

    class NoPieces:
        def encode_words(self, sentences):
            from xeval.task_templates.word_tokenization import Encoded

            return [Encoded(rows=[[1]]) for _ in sentences]

    with pytest.raises(
        XevalError, match=r"test.txt:3: the label 'B-PERSON' is not among those of the source"
    ):
        task_of("ner").encode(NoPieces(), examples, labels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n\n", "test.txt:1: expected two columns, a token and its tag, got 1"),
        ("New York B-LOC\n\n", "test.txt:1: expected two columns, .* got 3 in 'New York B-LOC'"),
        (
            "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n\n",
            "test.txt:3: expected two columns, .* got 4 in 'EU NNP B-NP B-ORG'; take the columns",
        ),
        ("a PER\n\n", "test.txt:1: expected a token and a tag"),
        ("a O\nb I-PER\n\n", "test.txt:2: .* continues nothing"),
        ("a B-LOC\nb I-PER\n", "test.txt:2: .* continues nothing"),
    ],
)
def test_what_is_not_iob2_is_named(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "test.txt"
    path.write_text(text)

    with pytest.raises(XevalError, match=said):
        TASK.read(path, None)


def test_the_language_before_every_token_of_wikiann_s_own_files_is_named(tmp_path) -> None:
    file = tmp_path / "de.txt"
    file.write_text("de:Karl\tB-PER\nde::\tO\n\nde:lebt\tO\n")

    with pytest.raises(XevalError, match=r"every token begins with 'de:', .* take it out"):
        task_of("ner").read(file, None)

    file.write_text("de:Karl\tB-PER\n:\tO\n\nlebt\tO\n")
    assert task_of("ner").read(file, None)[0].words == ("de:Karl", ":")


def test_a_border_between_documents_is_no_token_and_ends_a_sentence(tmp_path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("-DOCSTART- -X- -X- O\n\nAli B-PER\n-DOCSTART- O\nhier\tO\n")

    assert [example.words for example in TASK.read(path, None)] == [("Ali",), ("hier",)]


def test_a_space_of_another_kind_is_part_of_a_token(tmp_path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("10\u00a0000 O\n\u3000\tO\r\n\n", encoding="utf-8")

    (example,) = TASK.read(path, None)

    assert example.words == ("10\u00a0000", "\u3000")
