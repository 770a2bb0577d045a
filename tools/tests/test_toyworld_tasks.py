"""Labels follow from what was meant, and chance decides exactly as often as stated."""

from collections import Counter

from toyworld import TOPICS, World, words
from toyworld_tasks import LABELS, NLI_NOISE, PARAPHRASE_NOISE, TWO_ANSWERS


def test_labels_are_balanced(world):
    labels = Counter(label for _, _, label in world.nli("qav", 1200))
    assert set(labels) == set(LABELS)
    assert all(abs(count / 1200 - 1 / 3) < 0.06 for count in labels.values())
    same = sum(label for _, _, label in world.paraphrases("qav", 1000))
    assert abs(same / 1000 - 0.5) < 0.06


def test_topics_have_their_prior_and_shape_the_words(world):
    rows = world.topics("qav", 4000)
    counts = Counter(topic for _, topic, _ in rows)
    assert set(counts) == set(TOPICS)
    assert counts[TOPICS[0]] > 1.5 * counts[TOPICS[-1]]
    nouns = {topic: Counter() for topic in TOPICS}
    for _, topic, text in rows:
        nouns[topic].update(w for w in words(text) if len(w) > 4)
    heads = [nouns[topic].most_common(1)[0][0] for topic in TOPICS]
    assert len(set(heads)) > len(TOPICS) / 2


def test_rows_mean_the_same_in_every_language(world):
    assert [row[:2] for row in world.topics("qav", 50)] == [
        row[:2] for row in world.topics("qeo", 50)
    ]
    assert [row[2] for row in world.nli("qav", 50)] == [row[2] for row in world.nli("qeo", 50)]
    assert [row[2] for row in world.paraphrases("qav", 50)] == [
        row[2] for row in world.paraphrases("qag", 50)
    ]


def test_rows_do_not_depend_on_where_one_starts(world):
    assert world.nli("qav", 10, "dev", start=20) == world.nli("qav", 30, "dev")[20:]
    small = {"share": 0.2, "frames": 40}
    later = World(seed=0, **small).nli("qav", 5, start=10)
    assert later == World(seed=0, **small).nli("qav", 15)[10:]


def test_pairs_differ_in_every_language(world):
    for code in world.languages:
        assert all(premise != hypothesis for premise, hypothesis, _ in world.nli(code, 100))
        assert all(one != other for one, other, _ in world.paraphrases(code, 100))


def test_the_pair_settles_the_label_but_for_the_stated_noise(world):
    """What was done to a premise shows: pairs that differ in the same words in the same way have the same label."""
    seen: dict[tuple, Counter] = {}
    for premise, hypothesis, label in world.nli("qso", 2500):
        one, other = Counter(words(premise)), Counter(words(hypothesis))
        denied = tuple(bag[world.realizer("qso").stems["neg"][0]] > 0 for bag in (one, other))
        change = frozenset((one - other).items()), frozenset((other - one).items()), denied
        seen.setdefault(change, Counter())[label] += 1
    repeated = [labels for labels in seen.values() if labels.total() >= 3]
    agreeing = sum(max(labels.values()) for labels in repeated) / sum(
        labels.total() for labels in repeated
    )
    assert sum(labels.total() for labels in repeated) > 300
    assert abs(agreeing - (1 - NLI_NOISE)) < 0.03


def test_hypotheses_alone_tell_little(world):
    """No word of the hypothesis gives the label away: denial is as frequent under every label."""
    neg = world.realizer("qav").stems["neg"][0]
    rows = world.nli("qav", 1200)
    rates = [
        sum(neg in words(hypothesis) for _, hypothesis, label in rows if label == name)
        / sum(label == name for _, _, label in rows)
        for name in LABELS
    ]
    assert max(rates) - min(rates) < 0.3


def test_answers_stand_where_they_are_said_to(world):
    for code in world.languages:
        for row in world.questions(code, 60):
            assert row.answer
            assert row.context[row.start : row.start + len(row.answer)] == row.answer
            assert row.question.endswith("?")


def test_as_many_questions_have_two_answers_as_stated(world):
    """A sentence that differs from the answering one in the answer alone answers too."""
    rows = world.questions("qso", 1000)
    double = 0
    for row in rows:
        sentences = [
            words(sentence + ".") for sentence in row.context.removesuffix(".").split(". ")
        ]
        asked = set(words(row.question)[:-1]) - {
            world.realizer("qso").stems[w][0] for w in ("who", "what", "where")
        }
        double += sum(asked <= set(sentence) for sentence in sentences) == 2
    assert abs(double / len(rows) - TWO_ANSWERS) < 0.03


def test_paraphrase_noise_is_what_it_says(world):
    """Sentences that differ in one place, by two synonyms, are paraphrases but for the noise."""
    stems, kin = world.realizer("qso").stems, world.meanings.lexical_relations
    synonyms = {
        frozenset((stems[kind][m], stems[kind][other]))
        for kind, rows in kin.items() for m, other in enumerate(rows["synonym"]) if other >= 0
    }  # fmt: skip
    labels = []
    for one, other, label in world.paraphrases("qso", 1500):
        changed = [
            pair for pair in zip(words(one), words(other), strict=False) if pair[0] != pair[1]
        ]
        if len(changed) == 1 and frozenset(changed[0]) in synonyms:
            labels.append(label)
    assert len(labels) > 100
    assert abs(sum(labels) / len(labels) - (1 - PARAPHRASE_NOISE)) < 0.05
