"""Entropies and ceilings against brute force: a world so small that every sentence can be written down."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from toyworld import PIVOT, World, words
from toyworld_ceilings import TASKS
from toyworld_lexicon import LANGUAGES, TOPIC_PRIOR, TOPICS, UPOS
from toyworld_oracle import spans
from toyworld_word_order import iob2, place

TINY = ("qav", "qag", "qso")


class Book:
    """Every sentence of a language with its probability, and all that it may mean: no algebra, only a list."""

    def __init__(self, world: World, code: str) -> None:
        realizer = world.realizer(code)
        self.meant: dict[tuple[str, ...], list[tuple[np.ndarray, list, list, list]]] = defaultdict(
            list
        )
        for tree, prior in zip(world.grammar.trees, world.grammar.prior, strict=True):
            placed = place(tree, LANGUAGES[code])
            tags = [UPOS[tree[n].kind] for n in placed.nodes]
            arcs = [
                (h + 1, tree[n].relation) for n, h in zip(placed.nodes, placed.heads, strict=True)
            ]
            names = iob2(tree, placed)
            for meanings in product(*(range(world.meanings.count(node.kind)) for node in tree)):
                p = prior * TOPIC_PRIOR
                for node, meaning in zip(tree, meanings, strict=True):
                    p = p * world.meanings.probability[node.kind][:, meaning]
                said = tuple(realizer.form(tree[n], meanings[n]) for n in placed.nodes)
                self.meant[said].append((p, tags, arcs, names))
        self.probability = {said: sum(row[0] for row in rows) for said, rows in self.meant.items()}

    def visible(
        self, said: tuple[str, ...], hidden: set[int], seen=lambda word: None
    ) -> np.ndarray:
        """P(what is visible of a sentence, topic): the sum over all sentences that look the same."""
        total = np.zeros(len(TOPICS))
        for other, p in self.probability.items():
            if len(other) == len(said) and all(
                seen(o) == seen(w) if i in hidden else o == w
                for i, (o, w) in enumerate(zip(other, said, strict=True))
            ):
                total += p
        return total


@pytest.fixture(scope="module")
def tiny() -> World:
    return World(seed=2, share=0.004, frames=4, longest=8)


@pytest.fixture(scope="module")
def books(tiny) -> dict[str, Book]:
    return {code: Book(tiny, code) for code in TINY}


def cases(book: Book, count: int) -> list[tuple[tuple[str, ...], set[int]]]:
    rng = np.random.default_rng(0)
    all_said = sorted(book.probability)
    chosen = [all_said[i] for i in rng.choice(len(all_said), count, replace=False)]
    return [
        (said, set(rng.choice(len(said), rng.integers(1, 4), replace=False).tolist()))
        for said in chosen
    ]


def test_the_book_is_whole(books):
    for book in books.values():
        assert sum(p.sum() for p in book.probability.values()) == pytest.approx(1)
        assert len(book.probability) > 500
        assert sum(len(rows) > 1 for rows in book.meant.values()) > 20, "nothing is ambiguous"


@pytest.mark.parametrize("code", TINY)
def test_surprisal_is_that_of_enumeration(tiny, books, code):
    for said, hidden in cases(books[code], 6):
        expected = [
            -np.log2(
                books[code].visible(said, hidden - {i}).sum()
                / books[code].visible(said, hidden).sum()
            )
            for i in sorted(hidden)
        ]
        # Masked words are predicted one by one, none of them shown to the other.
        alone = [
            -np.log2(
                sum(
                    p.sum() for other, p in books[code].probability.items()
                    if len(other) == len(said) and other[i] == said[i]
                    and all(o == w for j, (o, w) in enumerate(zip(other, said, strict=True)) if j not in hidden)
                ) / books[code].visible(said, hidden).sum()
            )
            for i in sorted(hidden)
        ]  # fmt: skip
        np.testing.assert_allclose(expected, alone, atol=1e-9)
        np.testing.assert_allclose(tiny.oracle(code).surprisal(said, hidden), expected, atol=1e-9)


@pytest.mark.parametrize("code", TINY)
def test_surprisal_knows_what_is_revealed(tiny, books, code):
    """With the word lengths shown, as to a model that sees the number of pieces."""
    for said, hidden in cases(books[code], 6):
        shown = books[code].visible(said, hidden, len).sum()
        expected = [
            -np.log2(
                sum(
                    p.sum() for other, p in books[code].probability.items()
                    if len(other) == len(said) and other[i] == said[i]
                    and all(
                        len(o) == len(w) if j in hidden else o == w for j, (o, w) in enumerate(zip(other, said, strict=True))
                    )
                ) / shown
            )
            for i in sorted(hidden)
        ]  # fmt: skip
        np.testing.assert_allclose(
            tiny.oracle(code).surprisal(said, hidden, reveal=len), expected, atol=1e-9
        )


def test_surprisal_knows_a_given_topic(tiny, books):
    for said, hidden in cases(books["qav"], 6):
        at = min(hidden)
        for topic in (0, 5):
            joint = books["qav"].visible(said, {at} ^ hidden)[topic] if len(hidden) == 1 else None
            got = tiny.oracle("qav").surprisal(said, {at}, topic=topic)[0]
            joint = books["qav"].visible(said, set())[topic]
            assert got == pytest.approx(-np.log2(joint / books["qav"].visible(said, {at})[topic]))


def test_predictions_sum_to_one_and_agree_with_surprisal(tiny, books):
    realizer = tiny.realizer("qag")
    for said, hidden in cases(books["qag"], 5):
        at = min(hidden)
        p = tiny.oracle("qag").predict(said, hidden, at)
        assert p.sum() == pytest.approx(1)
        bits = tiny.oracle("qag").surprisal(said, hidden)[0]
        assert -np.log2(p[realizer.number[said[at]]]) == pytest.approx(bits)


@pytest.mark.parametrize("code", TINY)
def test_posteriors_are_those_of_enumeration(tiny, books, code):
    oracle = tiny.oracle(code)
    ambiguous = sorted(said for said, rows in books[code].meant.items() if len(rows) > 1)[:40:4]
    for said in ambiguous:
        rows = books[code].meant[said]
        total = books[code].probability[said].sum()
        np.testing.assert_allclose(
            oracle.topics(said), books[code].probability[said] / total, atol=1e-12
        )
        for posterior, column in (
            (oracle.tags(said), 1),
            (oracle.arcs(said), 2),
            (oracle.names(said), 3),
        ):
            for i in range(len(said)):
                expected: dict = defaultdict(float)
                for row in rows:
                    expected[row[column][i]] += row[0].sum() / total
                assert posterior[i] == pytest.approx(dict(expected))
        expected = defaultdict(float)
        for row in rows:
            for span in spans(row[3]):
                expected[span] += row[0].sum() / total
        assert oracle.spans(said) == pytest.approx(dict(expected))


def test_sampled_entropy_meets_the_exact_one(tiny, books):
    """H(second word | the others): the sum over the book against the mean over sampled sentences."""
    book, oracle = books["qav"], tiny.oracle("qav")
    rest: dict = defaultdict(float)
    for said, p in book.probability.items():
        rest[len(said), said[:1] + said[2:]] += p.sum()
    exact = sum(
        -p.sum() * np.log2(p.sum() / rest[len(said), said[:1] + said[2:]])
        for said, p in book.probability.items()
    )
    drawn = tiny.draw(np.random.Generator(np.random.PCG64(3)), 1500)
    sampled = oracle.entropy((words(text), [1]) for text in tiny.realizer("qav").say(drawn))
    assert sampled.words == 1500
    assert abs(sampled.bits_per_word - exact) < 4 * sampled.error


def test_knowing_more_never_costs_bits(world):
    base = world.entropy("qag", count=60)
    assert world.entropy("qag", count=60, reveal=len).bits_per_word < base.bits_per_word
    rows = [(words(s), range(len(words(s)))) for s in world.sentences("qag", 60, split="test")]
    blind = world.oracle("qag").entropy(
        rows
    )  # every word masked at once: nothing but the length is known
    assert blind.bits_per_word > base.bits_per_word + 1


def test_context_tells_about_topics(world):
    """The other words help to guess a noun, and would help more if they gave the topic away."""
    rows = [(words(s), [i]) for s in world.sentences("qav", 80, split="test") for i in (1,)]
    unknown = world.oracle("qav").entropy(rows)
    topics = [TOPICS.index(topic) for _, topic, _ in world.topics("qav", 80, "test")]
    known = [
        world.oracle("qav").surprisal(words(text), [1], topic=topic)[0]
        for (_, _, text), topic in zip(world.topics("qav", 80, "test"), topics, strict=True)
    ]
    assert np.mean(known) < unknown.bits_per_word + 1


def test_entropy_counts_words_and_bytes(world):
    e = world.entropy("qyr", count=30)
    said = [words(s) for s in world.sentences("qyr", 30, split="test")]
    assert e.words == sum(map(len, said))
    assert e.bytes == sum(len(w.encode()) for row in said for w in row)
    assert e.bits_per_byte == pytest.approx(e.bits_per_word * e.words / e.bytes)
    rate = world.entropy("qyr", masks=0.15, count=200)
    assert rate == world.entropy("qyr", masks=0.15, count=200)
    total = sum(len(words(s)) for s in world.sentences("qyr", 200, split="test"))
    assert 0.12 < rate.words / total < 0.25


@pytest.mark.parametrize(
    ("task", "code"),
    [("pos", "qso"), ("uas", "qav"), ("las", "qag"), ("ner", "qav"), ("topic", "qeo")],
)
def test_the_best_reader_attains_the_ceiling(world, task, code):
    """The posterior's favourite, scored against what was meant, scores the ceiling within the error of the sample."""
    count, oracle = 400, world.oracle(code)
    ceiling = world.ceiling(task, code, count=count, split="train")
    right, variance = [], 0.0
    if task == "topic":
        rows = [
            (words(text), [TOPICS.index(topic)]) for _, topic, text in world.topics(code, count)
        ]
        posterior = [[dict(enumerate(oracle.topics(row)))] for row, _ in rows]
    elif task == "ner":
        tagged = world.ner(code, count)
        rows = [([w for w, _ in row], [tag for _, tag in row]) for row in tagged]
        posterior = [oracle.names(row) for row, _ in rows]
    else:
        key = {
            "pos": lambda t: t.upos,
            "uas": lambda t: t.head,
            "las": lambda t: (t.head, t.deprel),
        }[task]
        rows = [
            ([t.form for t in tree], [key(t) for t in tree]) for tree in world.treebank(code, count)
        ]
        posterior = [oracle.tags(row) if task == "pos" else oracle.arcs(row) for row, _ in rows]
    for (_, gold), guesses in zip(rows, posterior, strict=True):
        for truth, p in zip(gold, guesses, strict=True):
            table: dict = defaultdict(float)
            for answer, weight in p.items():
                table[answer[0] if task == "uas" else answer] += weight
            best = max(table, key=table.__getitem__)
            right.append(best == truth)
            variance += table[best] * (1 - table[best])
    error = np.sqrt(variance) / len(right)
    assert error > 0, "nothing is ambiguous"
    assert abs(np.mean(right) - ceiling.score) < 4 * (
        error + (ceiling.error if task == "topic" else 0)
    )
    assert ceiling.floor < ceiling.score < 1


def test_best_f1_is_attained(world):
    """Taking every span likelier than half the best F1 scores that F1 against what was meant."""
    ceiling = world.ceiling("ner_f1", "qav", count=600, split="train")
    hits = chosen = gold = 0
    for row in world.ner("qav", 600):
        guess = {
            s
            for s, p in world.oracle("qav").spans([w for w, _ in row]).items()
            if p > ceiling.score / 2
        }
        truth = set(spans([tag for _, tag in row]))
        hits, chosen, gold = hits + len(guess & truth), chosen + len(guess), gold + len(truth)
    assert abs(2 * hits / (chosen + gold) - ceiling.score) < 0.015
    assert 0.9 < ceiling.score < 1


def test_single_words_score_what_is_stated(world):
    best = {
        word: max(tags, key=tags.__getitem__)
        for word, tags in world.oracle("qso").word_tags().items()
    }
    right = [best[t.form] == t.upos for tree in world.treebank("qso", 2000) for t in tree]
    ceiling = world.ceiling("pos", "qso", count=50)
    assert abs(np.mean(right) - ceiling.lexical) < 0.006
    assert ceiling.lexical < ceiling.score - 0.01


def test_every_task_has_a_ceiling_above_its_floor(world):
    for task in TASKS:
        ceiling = world.ceiling(task, PIVOT, count=50)
        assert 0 <= ceiling.floor < ceiling.score <= 1


def test_strange_words_and_tasks_are_refused(world):
    with pytest.raises(ValueError, match="'Hund' is no word of qav"):
        world.oracle("qav").tags(["Hund", "."])
    with pytest.raises(ValueError, match="is no sentence of qav"):
        world.oracle("qav").tags([".", "."])
    with pytest.raises(ValueError, match=r"pos, uas.*got 'chess'"):
        world.ceiling("chess", "qav")
