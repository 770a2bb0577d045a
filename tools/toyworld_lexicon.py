"""Meanings and their frequencies, and the languages that give them words."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

SPLITS = {"train": (0, 80), "dev": (80, 90), "test": (90, 100)}  # percent of the world
TOPICS = ("farming", "sailing", "law", "music", "medicine", "trade", "war", "weather")
TOPIC_PRIOR = np.array([0.2, 0.17, 0.15, 0.13, 0.11, 0.09, 0.08, 0.07])

# kind: (universal tag, number of meanings, how much likelier a meaning is in its home topic)
OPEN_KINDS = {
    "person": ("NOUN", 450, 12.0),
    "thing": ("NOUN", 550, 12.0),
    "place": ("NOUN", 250, 12.0),
    "rest": ("VERB", 180, 8.0),
    "act": ("VERB", 320, 8.0),
    "meet": ("VERB", 160, 8.0),
    "give": ("VERB", 50, 4.0),
    "say": ("VERB", 50, 4.0),
    "go": ("VERB", 70, 4.0),
    "adj": ("ADJ", 350, 6.0),
    "adv": ("ADV", 120, 3.0),
    "given": ("PROPN", 220, 3.0),
    "family": ("PROPN", 260, 3.0),
    "city": ("PROPN", 220, 4.0),
    "firm": ("PROPN", 160, 6.0),
}
# kind: (universal tag, number of words); the choice among them is the same in every topic
CLOSED_KINDS = {
    "orgkind": ("PROPN", 12),
    "region": ("PROPN", 8),
    "num": ("NUM", 10),
    "when": ("SCONJ", 4),
    "cc": ("CCONJ", 3),
    "def": ("DET", 1),
    "indef": ("DET", 1),
    "dem": ("DET", 2),
    "he": ("PRON", 2),
    "they": ("PRON", 1),
    "who": ("PRON", 1),
    "what": ("PRON", 1),
    "where": ("ADV", 1),
    "rel": ("PRON", 1),
    "that": ("SCONJ", 1),
    "cop": ("AUX", 1),
    "past": ("AUX", 1),
    "fut": ("AUX", 1),
    "neg": ("PART", 1),
    "ask": ("PART", 1),
    "dat": ("ADP", 1),
    "gen": ("ADP", 1),
    "loc": ("ADP", 2),
    "abl": ("ADP", 1),
    "ins": ("ADP", 1),
    "stop": ("PUNCT", 1),
    "query": ("PUNCT", 1),
}
KINDS = (*OPEN_KINDS, *CLOSED_KINDS)
UPOS = {kind: row[0] for kind, row in (OPEN_KINDS | CLOSED_KINDS).items()}
NAMES = {
    "given": "PER",
    "family": "PER",
    "city": "LOC",
    "region": "LOC",
    "firm": "ORG",
    "orgkind": "ORG",
}
_MARKS = {"stop": ".", "query": "?"}

_CYRILLIC = str.maketrans("abdefghijklmnoprstuvzcwyäöq", "абдефгхийклмнопрстувзцўыэёқ")
_GEORGIAN = str.maketrans("abdefghijklmnoprstuvzcwyäöq", "აბდეფგჰიჯკლმნოპრსტუვზცწყჩშქ")


def generator(*key: int | str) -> np.random.Generator:
    """Random numbers that depend on the key alone, in every process."""
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


class Meanings:
    """The world's meanings, kind by kind, most frequent first: P(meaning | kind, topic).

    Args:
        seed: of the world.
        share: of the full number of meanings per kind; small for worlds that are enumerated.
    """

    def __init__(self, seed: int, share: float = 1.0) -> None:
        rng = generator(seed, "meanings")
        self.offset: dict[str, int] = {}
        self.probability: dict[str, np.ndarray] = {}  # kind -> [topics, meanings]
        total = 0
        for kind in KINDS:
            size, boost = self._size(kind, share)
            zipf = 1.0 / (np.arange(size) + 2.0) ** 1.05
            home = (rng.random(size) * len(TOPICS) / 0.75).astype(int)  # a quarter has none
            weight = zipf * np.where(home == np.arange(len(TOPICS))[:, None], boost, 1.0)
            self.probability[kind] = weight / weight.sum(1, keepdims=True)
            self.offset[kind] = total
            total += size
        self.total = total
        self.lexical_relations = self._lexical_relations(rng)

    @staticmethod
    def _size(kind: str, share: float) -> tuple[int, float]:
        if kind in CLOSED_KINDS:
            return (CLOSED_KINDS[kind][1] if share == 1.0 else min(2, CLOSED_KINDS[kind][1])), 1.0
        _, size, boost = OPEN_KINDS[kind]
        return max(2, round(size * share)), boost

    def count(self, kind: str) -> int:
        """How many meanings a kind has."""
        return self.probability[kind].shape[1]

    def _lexical_relations(self, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
        """Per kind, arrays to the synonym, antonym, hypernym and hyponym of a meaning, -1 if none.

        Meanings come in fours (a, b, c, d): a and b mean the same, c the contrary of a, d embraces a.
        """
        kin = {}
        for kind in ("person", "thing", "place", "rest", "act", "meet", "give", "go", "adj"):
            size = self.count(kind)
            fours = np.argsort(rng.random(size))[: size // 4 * 4].reshape(-1, 4)
            rows = {
                name: np.full(size, -1) for name in ("synonym", "antonym", "hypernym", "hyponym")
            }
            for a, b, c, d in fours:
                rows["synonym"][[a, b]] = b, a
                rows["antonym"][[a, c]] = c, a
                rows["hypernym"][a] = d
                rows["hyponym"][d] = a
            kin[kind] = rows
        return kin


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language's choices; what it does not choose is as in `toyworld_grammar.SVO`."""

    code: str
    name: str
    family: str
    cognates: float  # share of its stems that descend from the family's
    order: str
    morphology: str
    consonants: str = "ptkbdgmnslrv"
    vowels: str = "aeiou"
    change: tuple[tuple[str, str], ...] = ()  # sound changes from the family's stems
    affixes: dict[str, str] = field(default_factory=dict)  # feature -> "-suffix" or "prefix-"
    silent: frozenset[str] = frozenset()  # closed kinds it has no word for
    script: str = "Latin"

    def write(self, stem: str, *, name: bool = False) -> str:
        """A stem in the language's script; names begin with a capital where there are any."""
        if name and self.script != "Georgian":
            stem = (
                stem.capitalize()
                if self.script == "Latin"
                else stem.translate(_CYRILLIC).capitalize()
            )
        table = {"Latin": {}, "Cyrillic": _CYRILLIC, "Georgian": _GEORGIAN}[self.script]
        return stem.translate(table)

    def inflect(self, stem: str, affixes: tuple[str, ...]) -> str:
        """The stem with its affixes; A, O, U in a suffix follow the stem's last vowel (harmony)."""
        front = "".join(a[:-1] for a in affixes if a.endswith("-"))
        back = "".join(a[1:] for a in affixes if a.startswith("-"))
        if back != back.lower():
            last = next((c for c in reversed(stem.lower()) if c in "aeiouäöyü"), "a")
            back = back.translate(str.maketrans("AOU", "äöy" if last in "eiäöyü" else "aou"))
        return self.write(front) + stem + self.write(back)


_ADPOSITIONS = frozenset({"dat", "gen", "loc", "abl", "ins"})
_ARTICLES = frozenset({"def", "indef"})
_CASES = {"acc": "-n", "dat": "-lle", "gen": "-yA", "loc": "-ssA", "abl": "-stA", "ins": "-kO"}
_AGGLUTINATIVE = {
    "noun.Plur": "-lAr", **{f"noun.{case}": affix for case, affix in _CASES.items()},
    "verb.neg": "-mA", "verb.Past": "-di", "verb.Fut": "-jAk", "verb.Plur": "-vAt",
}  # fmt: skip
_WESTERN = {"noun.Plur": "-s", "verb.Past": "-ed", "verb.Sing": "-t", "verb.Plur": "-n"}
_GENDERED = {
    "noun.Plur": "-i", "verb.Past": "-va", "verb.Plur": "-no", "verb.Sing": "-e",
    "adj.person.Sing": "-o", "adj.person.Plur": "-os", "adj.thing.Sing": "-a", "adj.thing.Plur": "-as",
    "adj.place.Sing": "-u", "adj.place.Plur": "-us",
}  # fmt: skip
_CLASSES = {
    "person.Sing": "mu-", "person.Plur": "ba-", "thing.Sing": "ki-", "thing.Plur": "vi-",
    "place.Sing": "pa-", "place.Plur": "ku-",
}  # fmt: skip
_PREFIXED = {
    **{f"{part}.{feature}": prefix for part in ("noun", "adj") for feature, prefix in _CLASSES.items()},
    **{f"verb.{feature}": prefix for feature, prefix in _CLASSES.items()},
    "verb.neg": "-sha", "verb.Past": "-li", "verb.Fut": "-ta", "noun.loc": "-ni",
}  # fmt: skip
_CASED = {
    "noun.Plur": "-eb", "noun.acc": "-s", "noun.dat": "-ad", "noun.gen": "-is", "noun.loc": "-ze", "noun.abl": "-gan",
    "adj.acc": "-s", "adj.dat": "-ad", "verb.Past": "-ob", "verb.Plur": "-en", "verb.neg": "ar-",
}  # fmt: skip
_EASTERN = {
    "noun.Plur": "-y", "noun.acc": "-u", "noun.gen": "-oj", "verb.Past": "-la", "verb.Plur": "-ut", "verb.Sing": "-it",
    "adj.Plur": "-yje", "adj.Sing": "-ij",
}  # fmt: skip

LANGUAGES = {
    language.code: language
    for language in (
        Language(
            code="qav", name="Avelic", family="west", cognates=1.0, order="SVO",
            morphology="weakly inflected", affixes=_WESTERN, silent=frozenset({"past"}),
        ),
        Language(
            code="qev", name="Evelic", family="west", cognates=0.9, order="SVO",
            morphology="weakly inflected", affixes=_WESTERN | {"noun.Plur": "-z"},
            silent=frozenset({"past"}), change=(("k", "g"), ("u", "o")),
        ),
        Language(
            code="qov", name="Ovelic", family="west", cognates=0.6, order="SVO, adjective last",
            morphology="adjectives agree in noun class", affixes=_GENDERED, silent=frozenset({"past", "ask"}),
            change=(("t", "d"), ("p", "f"), ("e", "i")),
        ),
        Language(
            code="qyr", name="Yric", family="west", cognates=0.45, order="SVO",
            morphology="three cases, no articles", affixes=_EASTERN, script="Cyrillic",
            silent=_ARTICLES | {"past", "cop", "gen"}, change=(("b", "v"), ("d", "z"), ("a", "o")),
        ),
        Language(
            code="qag", name="Aggic", family="east", cognates=1.0, order="SOV",
            morphology="agglutinative, vowel harmony", affixes=_AGGLUTINATIVE, consonants="ptkhlmnrsvjy",
            vowels="aeiouäö", silent=_ADPOSITIONS | _ARTICLES | {"neg", "past", "fut", "rel"},
        ),
        Language(
            code="qam", name="Ammic", family="east", cognates=0.8, order="SOV",
            morphology="agglutinative, vowel harmony", affixes=_AGGLUTINATIVE | {"noun.loc": "-dA", "verb.Past": "-ti"},
            consonants="ptkhlmnrsvjy", vowels="aeiouäö", change=(("h", "k"), ("o", "u")),
            silent=_ADPOSITIONS | _ARTICLES | {"neg", "past", "fut", "rel"},
        ),
        Language(
            code="qeo", name="Georic", family="south", cognates=1.0, order="SOV",
            morphology="case suffixes, negative prefix", affixes=_CASED, script="Georgian",
            consonants="tkbdgmnlrszvhcq", silent=_ARTICLES | {"neg", "past", "dat", "gen", "loc", "abl"},
        ),
        Language(
            code="qso", name="Solic", family="isle", cognates=1.0, order="VSO",
            morphology="isolating", consonants="ptkhlmnw", silent=frozenset({"cop", "gen"}),
        ),
        Language(
            code="qba", name="Batic", family="plain", cognates=1.0, order="SVO, modifiers last",
            morphology="noun class prefixes", affixes=_PREFIXED, consonants="bdgkmnlszwyj",
            silent=_ARTICLES | {"neg", "past", "fut", "loc"},
        ),
    )
}  # fmt: skip


def stems(language: Language, meanings: Meanings, seed: int) -> dict[str, list[str]]:
    """One written stem per meaning: inherited, or the language's own; names are everyone's."""
    inherited = _coin(generator(seed, "family", language.family), language, meanings)
    coined = _coin(generator(seed, "language", language.code), language, meanings)
    descended = descent(language, meanings, seed)
    rng = generator(seed, "apart", language.code)
    taken: set[str] = set()
    result: dict[str, list[str]] = {}
    for kind in KINDS:
        result[kind] = []
        for m in range(meanings.count(kind)):
            stem = inherited[kind][m] if descended[kind][m] else coined[kind][m]
            for old, new in language.change:
                stem = stem.replace(old, new)
            while stem in taken:
                stem += language.vowels[int(rng.random() * len(language.vowels))] + "n"
            taken.add(stem)
            result[kind].append(_MARKS.get(kind) or language.write(stem))
    for kind, spelled in names(meanings, seed).items():
        result[kind] = [language.write(stem, name=True) for stem in spelled]
    _share_spellings(language, meanings, seed, result)
    return result


def descent(language: Language, meanings: Meanings, seed: int) -> dict[str, np.ndarray]:
    """Which meanings have a word that descends from the language's family."""
    rng = generator(seed, "descent", language.code)
    return {kind: rng.random(meanings.count(kind)) < language.cognates for kind in KINDS}


def names(meanings: Meanings, seed: int) -> dict[str, list[str]]:
    """Proper names in Latin letters, the same in every language.

    Three in ten cities are also family names, and three in ten firms are named after a family:
    only the sentence around them tells which is meant, and not always.
    """
    rng = generator(seed, "names")
    result: dict[str, list[str]] = {}
    taken: set[str] = set()
    for kind in NAMES:
        result[kind] = [
            _coin_one(rng, 3, "bdfgklmnprstvz", "aeiou", taken) for _ in range(meanings.count(kind))
        ]
    for kind in ("city", "firm"):
        for m in range(meanings.count(kind)):
            if rng.random() < 0.3:
                result[kind][m] = result["family"][int(rng.random() * meanings.count("family"))]
    return result


def _share_spellings(
    language: Language, meanings: Meanings, seed: int, result: dict[str, list[str]]
) -> None:
    """Homographs: an adjective and a noun, a verb and a noun, an adverb and an adjective, about equally frequent.

    Which pairs may share a spelling is the world's choice, which of them do is the language's.
    """
    frequent = {kind: list(range(0, meanings.count(kind) // 2 + 1, 2))[::-1] for kind in OPEN_KINDS}
    rng = generator(seed, "homographs", language.code)
    pairs = [
        ("adj", "thing"),
        ("act", "thing"),
        ("rest", "person"),
        ("adv", "adj"),
        ("meet", "place"),
    ]
    while pairs := [pair for pair in pairs if frequent[pair[0]] and frequent[pair[1]]]:
        for first, second in pairs:
            if frequent[first] and frequent[second]:
                a, b = frequent[first].pop(), frequent[second].pop()
                if rng.random() < 0.75:
                    result[first][a] = result[second][b]


def _coin(rng: np.random.Generator, language: Language, meanings: Meanings) -> dict[str, list[str]]:
    taken: set[str] = set()
    return {
        kind: [
            _coin_one(
                rng,
                1 if kind in CLOSED_KINDS else 2 + (m > 60),
                language.consonants,
                language.vowels,
                taken,
            )
            for m in range(meanings.count(kind))
        ]
        for kind in KINDS
    }


def _coin_one(
    rng: np.random.Generator, syllables: int, consonants: str, vowels: str, taken: set[str]
) -> str:
    """A new pronounceable stem of about that many syllables."""
    while True:
        draws = rng.random(3 * syllables)
        stem = "".join(
            consonants[int(c * len(consonants))]
            + vowels[int(v * len(vowels))]
            + ("n" if end < 0.12 else "")
            for c, v, end in draws.reshape(-1, 3)
        )
        if stem not in taken:
            taken.add(stem)
            return stem
        syllables += rng.random() < 0.1
