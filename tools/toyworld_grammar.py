"""The deep grammar all languages share: a finite inventory of constructions.

A construction is a dependency tree without words: every node names a kind of meaning, its relation to its
head, and the features an inflecting language may show. The world owns a finite inventory of constructions,
made once from random frames; a sentence is a construction, a topic and a meaning per node. The inventory is finite so
that everything about the world can be computed exactly.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import numpy as np
from toyworld_lexicon import KINDS, UPOS, generator
from toyworld_word_order import LONGEST, Node, Tree, fits, polar

MOST_WAYS = 100  # constructions of one frame


class Grammar:
    """The world's constructions, their probabilities, and tables over their nodes.

    Args:
        seed: of the world.
        frames: how many; a frame settles which phrases a sentence has, and frame r has a share of about 1/(r + 3). Number, tense,
            kinds of names, attachments and modifiers are free in each, and every way to choose them is a construction.
        longest: words of the longest sentence, final mark apart.
    """

    def __init__(self, seed: int, frames: int, longest: int = LONGEST) -> None:
        self.trees, self.prior = _inventory(seed, frames, longest)
        self.categories = _categories(self.trees)
        number = {category: i for i, category in enumerate(self.categories)}
        # [constructions, nodes] -> number of the node's category, and of its kind; -1 where there is no node
        self.category_at = np.full((len(self.trees), max(map(len, self.trees))), -1)
        for row, tree in zip(self.category_at, self.trees, strict=True):
            row[: len(tree)] = [number[node.kind, node.features] for node in tree]
        kinds = np.array([*(KINDS.index(kind) for kind, _ in self.categories), -1])
        self.kind_at = kinds[self.category_at]


def _inventory(seed: int, frames: int, longest: int) -> tuple[list[Tree], np.ndarray]:
    """The constructions of `frames` random frames, and their probabilities."""
    rng = generator(seed, "grammar")
    weights: Counter[Tree] = Counter()
    used = 0
    while used < frames:
        variants = Counter({tree: p for tree, p in _variants(rng).items() if fits(tree, longest)})
        for tree, p in variants.items():
            weights[tree] += p / variants.total() / (used + 3)
        used += bool(variants)
    trees = sorted(weights)
    weight = np.array([weights[tree] for tree in trees])
    return trees, weight / weight.sum()


def _variants(rng: np.random.Generator) -> Counter[Tree]:
    """Every construction of one new frame with its probability."""
    settled: dict[str, float] = {}
    path: list[list[int]] = []
    variants: Counter[Tree] = Counter()
    while True:
        builder = _TreeBuilder(rng, settled, path)
        variants[builder.build()] += builder.weight
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return variants
        path[-1][0] += 1


def _categories(trees: list[Tree]) -> list[tuple[str, tuple[str, ...]]]:
    """Every (kind, features) a sentence can need: those of the constructions, verbs also with the other polarity."""
    categories = {(node.kind, node.features) for tree in trees for node in tree}
    return sorted(
        categories
        | {
            (kind, polar(features, negated))
            for kind, features in categories
            for negated in (False, True)
            if UPOS[kind] in ("VERB", "AUX")
        }
    )


class _TreeBuilder:
    """A tree while it grows: `settled` choices are the frame's, `vary` goes through all ways, one path a time."""

    def __init__(
        self, rng: np.random.Generator, settled: dict[str, float], path: list[list[int]]
    ) -> None:
        self.rng, self.settled, self.path = rng, settled, path
        self.step = 0
        self.ways = 1
        self.weight = 1.0
        self.nodes: list[tuple[str, str, int, list[str]]] = []

    def choose(self, site: str, weights: dict[str, float]) -> str:
        """The frame's choice at a site."""
        if site not in self.settled:
            self.settled[site] = self.rng.random()
        edges = accumulate(weights.values())
        drawn = self.settled[site] * sum(weights.values())
        return next(
            (key for key, edge in zip(weights, edges, strict=True) if drawn < edge),
            next(reversed(weights)),
        )

    def chance(self, site: str, probability: float) -> bool:
        """The frame's choice whether."""
        return self.choose(site, {"yes": probability, "no": 1 - probability}) == "yes"

    def vary(self, weights: dict[str, float]) -> str:
        """A free choice, this path's; the frame's once the sentence can be varied in many ways."""
        if self.ways * len(weights) > MOST_WAYS:
            return self.choose(f"node {len(self.nodes)}", weights)
        self.ways *= len(weights)
        if self.step == len(self.path):
            self.path.append([0, len(weights)])
        key = list(weights)[self.path[self.step][0]]
        self.step += 1
        self.weight *= weights[key] / sum(weights.values())
        return key

    def add(self, kind: str, relation: str, head: int, *features: str) -> int:
        self.nodes.append((kind, relation, head, list(features)))
        return len(self.nodes) - 1

    def build(self) -> Tree:
        """A main clause, perhaps with a second one under or beside it."""
        question = self.chance("question", 0.12)
        root = self.clause("root", "root", -1, question=question)
        shape = (
            "plain"
            if question
            else self.choose("shape", {"plain": 0.74, "advcl": 0.13, "conj": 0.13})
        )
        if shape == "advcl":
            self.add("when", "mark", self.clause("advcl", "advcl", root, simple=True))
        if shape == "conj":
            self.add("cc", "cc", self.clause("conj", "conj", root, simple=True))
        self.add("query" if question else "stop", "punct", root)
        return tuple(
            Node(kind, relation, head, tuple(features))
            for kind, relation, head, features in self.nodes
        )

    def clause(
        self,
        site: str,
        relation: str,
        head: int,
        *,
        question: bool = False,
        simple: bool = False,
        subject: bool = True,
    ) -> int:
        verb = self.choose(
            f"{site}.verb",
            {
                "rest": 0.2,
                "act": 0.3,
                "meet": 0.15,
                "give": 0.07,
                "go": 0.1,
                "say": 0.05,
                "is": 0.13,
            },
        )
        if (verb == "say" and simple) or (verb == "is" and not subject):
            verb = "act"
        if verb == "is":
            return self._copula(site, relation, head, question)
        tenses = {"Pres": 0.5, "Past": 0.35, "Fut": 0.15}
        tense = self.choose(f"{site}.tense", tenses) if simple else self.vary(tenses)
        negated = self.chance(f"{site}.neg", 0.15)
        root = self.add(verb, relation, head, f"verb.{tense}", *(["verb.neg"] if negated else []))
        asks = {"ask": 0.4, "who": 0.3, "what": 0.15, "where": 0.15}
        asked = self.choose(f"{site}.asked", asks) if question else ""
        if subject:
            self._subject(site, root, asked, simple)
        self._particles(root, tense, negated, asked == "ask")
        thing = self._arguments(site, root, verb, asked, full=subject and not simple)
        if self.chance(f"{site}.adv", 0.25):
            self.add("adv", "advmod", root)
        if asked == "where" and verb != "go":
            self.add("where", "advmod", root)
        elif verb != "go" and self.chance(f"{site}.obl", 0.35):
            self._oblique(site, root, thing)
        return root

    def _oblique(self, site: str, root: int, thing: int | None) -> None:
        """A place or tool: of the doing or, in the same words, of the thing it is done to."""
        to = self.vary({"verb": 0.6, "thing": 0.4}) if thing is not None else "verb"
        case = self.choose(f"{site}.case", {"loc": 0.6, "abl": 0.2, "ins": 0.2})
        kinds = {"place": 0.5, "city": 0.3, "thing": 0.2}
        relation, head = ("nmod", thing) if to == "thing" and thing is not None else ("obl", root)
        self.phrase(f"{site}.obl", relation, head, kinds, case)

    def _subject(self, site: str, root: int, asked: str, simple: bool) -> None:
        if asked == "who":
            self.add("who", "nsubj", root)
            self.nodes[root][3].extend(["verb.Sing", "verb.person.Sing"])
            return
        kinds = {"person": 0.45, "name": 0.34, "he": 0.11, "thing": 0.1}
        at = self.phrase(f"{site}.nsubj", "nsubj", root, kinds, "nom", depth=int(simple))
        number, group = self._agreement(at)
        self.nodes[root][3].extend([f"verb.{number}", f"verb.{group}.{number}"])

    def _particles(self, root: int, tense: str, negated: bool, ask: bool) -> None:
        if tense != "Pres":
            self.add("past" if tense == "Past" else "fut", "aux", root)
        if negated:
            self.add("neg", "advmod", root)
        if ask:
            self.add("ask", "discourse", root)

    def _arguments(self, site: str, root: int, verb: str, asked: str, *, full: bool) -> int | None:
        """What the verb asks for; returns the noun of its object."""
        depth = 0 if full else 1
        thing = None
        if verb in ("act", "give") and asked == "what":
            self.add("what", "obj", root)
        elif verb in ("act", "give"):
            thing = self.phrase(f"{site}.obj", "obj", root, {"thing": 1.0}, "acc", depth=depth)
        if verb == "meet":
            self.phrase(
                f"{site}.obj", "obj", root, {"person": 0.6, "name": 0.4}, "acc", depth=depth
            )
        if verb == "give":
            self.phrase(f"{site}.iobj", "iobj", root, {"person": 0.6, "name": 0.4}, "dat")
        if verb == "go" and asked == "where":
            self.add("where", "advmod", root)
        elif verb == "go":
            case = self.choose(f"{site}.case", {"loc": 0.5, "abl": 0.5})
            self.phrase(f"{site}.obl", "obl", root, {"place": 0.5, "city": 0.5}, case)
        if verb == "say":
            self.add("that", "mark", self.clause(f"{site}.ccomp", "ccomp", root, simple=True))
        return thing

    def _copula(self, site: str, relation: str, head: int, question: bool) -> int:
        tense = self.vary({"Pres": 0.7, "Past": 0.3})
        negated = self.chance(f"{site}.neg", 0.15)
        noun = self.chance(f"{site}.noun", 0.4)
        if noun:
            kinds = {"person": 0.6, "thing": 0.4}
            root = self.phrase(f"{site}.is", relation, head, kinds, "nom", plain=True)
        else:
            root = self.add("adj", relation, head)
        kinds = {"person": 0.45, "name": 0.2, "thing": 0.25, "place": 0.1}
        at = self.phrase(f"{site}.nsubj", "nsubj", root, kinds, "nom")
        number, group = self._agreement(at)
        if not noun:
            self.nodes[root][3].extend([f"adj.{number}", f"adj.{group}.{number}"])
        self.add("cop", "cop", root, *polar((f"verb.{tense}", f"verb.{number}"), negated))
        self._particles(root, tense, negated, question)
        if self.chance(f"{site}.obl", 0.3):
            self.phrase(f"{site}.obl", "obl", root, {"place": 0.6, "city": 0.4}, "loc")
        return root

    def phrase(
        self,
        site: str,
        relation: str,
        head: int,
        kinds: dict[str, float],
        case: str,
        *,
        depth: int = 1,
        plain: bool = False,
    ) -> int:
        """A noun phrase with its modifiers; depth 0 allows a relative clause."""
        kind = self.choose(f"{site}.kind", kinds)
        if kind == "name":
            kind = self.vary({"given": 0.45, "family": 0.2, "firm": 0.25, "city": 0.1})
        elif kind == "city":
            kind = self.vary({"city": 0.8, "firm": 0.2})
        elif kind == "he":
            kind = self.vary({"he": 0.6, "they": 0.4})
        at = last = self.add(kind, relation, head)
        flat = {"given": ("family", 0.5), "firm": ("orgkind", 0.5), "city": ("region", 0.2)}
        if kind in flat and self.chance(f"{site}.{kind}", flat[kind][1]):
            last = self.add(flat[kind][0], "flat", at)
        if kind in ("person", "thing", "place"):
            self._modify(site, at, kind, case, depth, plain)
        if case != "nom":
            self.nodes[last][3].append(f"noun.{case}")
            if case != "acc":
                self.add(case, "case", at)
        return at

    def _modify(self, site: str, at: int, kind: str, case: str, depth: int, plain: bool) -> None:
        core = case in ("nom", "acc") and "relcl" not in site and "advcl" not in site
        numbers = {"Sing": 0.7, "Plur": 0.3}
        number = self.vary(numbers) if core else self.choose(f"{site}.number", numbers)
        self.nodes[at][3].extend([f"noun.{number}", f"noun.{kind}.{number}"])
        articles = {"def": 0.5, "dem": 0.1, "none": 0.1}
        articles |= {"indef": 0.3} if number == "Sing" else {"num": 0.15}
        article = self.choose(f"{site}.article.{number}", articles)
        if article != "none":
            self.add(article, "nummod" if article == "num" else "det", at)
        if self.chance(f"{site}.modifier", 0.42):
            if plain or self.vary({"adj": 0.7, "thing": 0.3}) == "adj":
                self.add("adj", "amod", at, f"adj.{number}", f"adj.{kind}.{number}", f"adj.{case}")
            else:
                self.add("thing", "compound", at)
        if plain:
            return
        if self.chance(f"{site}.gen", 0.12):
            self.phrase(f"{site}.gen", "nmod", at, {"person": 0.5, "name": 0.4, "city": 0.1}, "gen")
        if depth == 0 and self.chance(f"{site}.relcl", 0.12):
            verb = self.clause(f"{site}.relcl", "acl:relcl", at, simple=True, subject=False)
            self.nodes[verb][3].extend([f"verb.{number}", f"verb.{kind}.{number}"])
            self.add("rel", "nsubj", verb)

    def _agreement(self, at: int) -> tuple[str, str]:
        """Number and noun class that a subject lends to what agrees with it."""
        kind, _, _, features = self.nodes[at]
        number = "Plur" if "noun.Plur" in features or kind == "they" else "Sing"
        return number, kind if kind in ("thing", "place") else "person"
