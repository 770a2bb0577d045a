"""The world's sentences: deterministic, disjoint, Zipfian, in trees, in scripts."""

import os
import subprocess
import sys
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import toyworld
from toyworld import SPLITS, World, words
from toyworld_describe import cognates
from toyworld_lexicon import KINDS, LANGUAGES, generator

TOOLS = Path(toyworld.__file__).parent
CODES = tuple(LANGUAGES)


def in_fresh_process(script: str, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TOOLS)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_same_seed_says_the_same_in_every_process():
    script = """
import hashlib, toyworld
world = toyworld.World(3, share=0.2, frames=40)
said = [list(world.sentences(code, 40, split=split)) for code in ("qav", "qag", "qeo") for split in toyworld.SPLITS]
said += [world.nli("qav", 5), world.paraphrases("qeo", 5, "dev"), world.questions("qag", 5), world.topics("qso", 5)]
print(hashlib.sha256(repr(said).encode()).hexdigest())
"""
    assert in_fresh_process(script, "1") == in_fresh_process(script, "2")


def test_other_seeds_say_other_things():
    first, second = (World(seed, share=0.2, frames=40).sentences("qav", 20) for seed in (0, 1))
    assert set(first).isdisjoint(second)


def test_sentence_i_does_not_depend_on_where_one_starts(world):
    whole = list(world.sentences("qag", 4200))
    assert list(world.sentences("qag", 150, start=2000)) == whole[2000:2150]
    assert next(world.sentences("qag", 1, start=4100)) == whole[4100]


def test_sentences_are_streamed(world):
    assert len(list(islice(world.sentences("qav", 10**12), 5))) == 5


def test_no_sentence_stands_in_two_splits(world):
    for code in ("qav", "qag", "qeo"):
        tasks = {
            split: set(
                chain(
                    world.sentences(code, 3000, split=split),
                    (text for _, _, text in world.topics(code, 1000, split)),
                    *(row[:2] for row in world.nli(code, 40, split)),
                    *(row[:2] for row in world.paraphrases(code, 40, split)),
                    (question.question for question in world.questions(code, 15, split)),
                    (text for text, _ in world.parallel(code, 1000, split)),
                )
            )
            for split in SPLITS
        }
        for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
            assert not tasks[first] & tasks[second]


def test_splits_of_a_meaning_agree_in_all_languages(world):
    drawn = world.draw(generator(7), 1500)
    split_of = world.split_of(drawn)
    for code in CODES:
        seen: dict[str, str] = {}
        for sentence, split in zip(world.realizer(code).say(drawn), split_of, strict=True):
            assert seen.setdefault(sentence, split) == split


def test_splits_have_their_shares(world):
    counts = Counter(world.split_of(world.draw(generator(8), 20_000)))
    for split, (low, high) in SPLITS.items():
        assert abs(counts[split] / 20_000 - (high - low) / 100) < 0.02


def test_sentences_have_4_to_20_words(world):
    for code in CODES:
        lengths = {len(sentence.split(" ")) for sentence in world.sentences(code, 2000)}
        assert min(lengths) >= 4
        assert max(lengths) <= 20
        assert len(lengths) > 8


def test_words_undo_text(world):
    for sentence, tree in zip(world.sentences("qyr", 200), world.treebank("qyr", 200), strict=True):
        assert words(sentence) == [token.form for token in tree]


def test_nouns_follow_zipf(world):
    counts = Counter(
        token.lemma
        for tree in world.treebank("qav", 8000)
        for token in tree
        if token.upos in ("NOUN", "VERB", "ADJ")
    )
    frequencies = np.array(sorted(counts.values(), reverse=True)[10:500])
    slope = np.polyfit(np.log(np.arange(11, 501)), np.log(frequencies), 1)[0]
    assert -1.5 < slope < -0.7
    assert len(counts) > 1200


@pytest.mark.parametrize("code", CODES)
def test_trees_have_one_root_and_no_cycle(world, code):
    for tree in world.treebank(code, 400):
        heads = [0, *(token.head for token in tree)]
        assert [token.id for token in tree] == list(range(1, len(tree) + 1))
        assert heads[1:].count(0) == 1
        for token in tree:
            assert (token.head == 0) == (token.deprel == "root")
            node, steps = token.id, 0
            while node:
                node, steps = heads[node], steps + 1
                assert steps <= len(tree), "a cycle"


def test_verbs_agree_with_their_subjects(world):
    forms: dict[str, set[str]] = {"Sing": set(), "Plur": set()}
    for tree in world.treebank("qav", 1000):
        for token in tree:
            if (
                token.deprel == "nsubj"
                and "Number=" in token.feats
                and tree[token.head - 1].upos == "VERB"
            ):
                number = "Plur" if "Number=Plur" in token.feats else "Sing"
                assert f"Number={number}" in tree[token.head - 1].feats
                forms[number].add(tree[token.head - 1].form[-1])
    assert forms == {"Sing": {"t"}, "Plur": {"n"}}


@pytest.mark.parametrize("code", CODES)
def test_names_are_strict_iob2(world, code):
    labels = Counter()
    for sentence in world.ner(code, 1000):
        before = "O"
        for _, tag in sentence:
            labels[tag] += 1
            if tag.startswith("I-"):
                assert before[2:] == tag[2:]
                assert before != "O"
            before = tag
    assert set(labels) == {"O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"}


def test_names_are_the_same_in_every_language(world):
    names = {
        code: {word for row in world.ner(code, 4000) for word, tag in row if tag == "B-PER"}
        for code in ("qav", "qso")
    }
    assert len(names["qav"] & names["qso"]) > 0.7 * len(names["qav"])


def test_scripts_are_as_stated(world):
    letters = {code: "".join(world.sentences(code, 100)) for code in ("qav", "qyr", "qeo")}
    assert sum("a" <= c <= "z" for c in letters["qav"]) > 1000
    assert not any(c.isascii() and c.isalpha() for c in letters["qyr"] + letters["qeo"])
    assert sum("а" <= c <= "я" for c in letters["qyr"]) > 1000
    assert sum("ა" <= c <= "ჿ" for c in letters["qeo"]) > 1000


def test_similar_languages_share_more_words(world):
    types = {
        code: {w for s in world.sentences(code, 3000) for w in words(s) if w.islower()}
        for code in CODES
    }

    def shared(first: str, second: str) -> float:
        return len(types[first] & types[second]) / len(types[first])

    assert shared("qav", "qev") > 3 * shared("qav", "qag")
    assert shared("qag", "qam") > 3 * shared("qag", "qso")
    assert cognates(world, "qav", "qev") > 0.8
    assert cognates(world, "qav", "qba") == 0


def test_word_orders_differ(world):
    verb_first = {
        code: np.mean([
            token.head < token.id
            for tree in world.treebank(code, 500) for token in tree
            if token.deprel == "obj" and token.upos == "NOUN"
        ])
        for code in ("qav", "qag", "qso")
    }  # fmt: skip
    assert verb_first == {"qav": 1.0, "qag": 0.0, "qso": 1.0}
    subject_last = [
        token.head < token.id for tree in world.treebank("qso", 500) for token in tree
        if token.deprel == "nsubj" and tree[token.head - 1].deprel == "root"
    ]  # fmt: skip
    assert all(subject_last)


def test_agglutination_stacks_affixes(world):
    affixes = max(len(key[1]) for key in world.realizer("qag").inflections)
    assert affixes >= 3
    assert max(len(key[1]) for key in world.realizer("qso").inflections) == 0


def test_parallel_sentences_mean_the_same_and_never_repeat(world):
    rows = world.parallel("qev", 500)
    assert len(rows) == 500
    assert len({text for text, _ in rows}) == len({text for _, text in rows}) == 500
    assert world.parallel("qav", 50) == [(text, text) for text, _ in world.parallel("qav", 50)]


def test_unknown_language_and_split_are_refused_by_name(world):
    with pytest.raises(ValueError, match=r"qav.*got 'xx'"):
        world.sentences("xx", 1).__next__()
    with pytest.raises(ValueError, match="train, dev, test, got 'valid'"):
        world.treebank("qav", 1, "valid")
    with pytest.raises(ValueError, match="train, dev, test, got 'valid'"):
        world.nli("qav", 1, "valid")


def test_words_spelled_alike_count_alike(world):
    """Whatever a sentence means, it has one split: meanings with a form in common can take each other's place."""
    offsets = [(world.meanings.offset[kind], number) for number, kind in enumerate(KINDS)]

    def sense(number: int) -> tuple[int, int]:
        first, kind = max(row for row in offsets if row[0] <= number)
        return kind, number - first

    beside = [KINDS.index("say")] * 30, range(30)
    compared = 0
    for code in CODES:
        for alike in world.realizer(code).homographs():
            splits = []
            for kind, meaning in map(sense, alike):
                kinds = np.stack([np.full(30, kind), beside[0]], axis=1)
                meanings = np.stack([np.full(30, meaning), beside[1]], axis=1)
                splits.append(world.splits.split_of(kinds, meanings).tolist())
            assert all(split == splits[0] for split in splits)
            compared += 1
    assert compared > 1000
