"""Named entities: strict F1 over whole entities.

Label sets differ between sources. By the protocol's `labels`, "common" maps person and place names by many names to
PER and LOC, keeps ORG, and counts every other type as no entity, in source and target alike; "own" takes the types
as they are and refuses a target with types that the source lacks.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.task_templates.entities import entity_counts, is_iob2
from xeval.task_templates.files import read_text
from xeval.task_templates.hub import CONVERTED, HubSet, LabelNames, Row, label_name
from xeval.task_templates.word_labels import Tagged, word_labelling

# CoNLL-2003 puts it between documents, with columns of its own; it is no token.
_BORDER = "-DOCSTART-"
COMMON = {"PER": "PER", "PERSON": "PER", "LOC": "LOC", "GPE": "LOC", "ORG": "ORG"}


def _read(path: Path, _cache: Path | None) -> list[Tagged]:
    text, _ = read_text(path)
    examples: list[Tagged] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        # At these alone, because a token may hold a space of another kind, or be one.
        columns = re.split("[ \t]+", line.strip(" \t\r")) if line.strip() else []
        if columns and columns[0] != _BORDER:
            word, tag = _token(columns, f"{path}:{number}")
            words.append(word)
            tags.append(tag)
        elif words:
            if not is_iob2(tags):
                raise XevalError(
                    f"{path}:{number - 1}: the sentence that ends here has an I- tag that continues nothing; convert the file to IOB2"
                )
            examples.append(Tagged(tuple(words), tuple(tags), f"{path}:{number - len(words)}"))
            words, tags = [], []
    if not examples:
        raise XevalError(f"{path}: holds no sentence")
    if prefix := _prefix_of_all(examples):
        raise XevalError(
            f"{path}: every token begins with {prefix!r}, which WikiANN's own files put before it; take it out"
        )
    return examples


def _prefix_of_all(examples: Sequence[Tagged]) -> str:
    """A language and ":" that every token of a file begins with, "" where there is none."""
    beginnings = {word.partition(":")[:2] for example in examples for word in example.words}
    language, colon = beginnings.pop()
    return language + colon if not beginnings and colon and language else ""


def _token(columns: list[str], where: str) -> tuple[str, str]:
    if len(columns) != 2:
        raise XevalError(
            f"{where}: expected two columns, a token and its tag, got {len(columns)} in {' '.join(columns)[:60]!r}; "
            "take the columns between them out"
        )
    word, tag = columns
    if tag != "O" and tag[:2] not in {"B-", "I-"}:
        raise XevalError(
            f"{where}: expected a token and a tag O, B-TYPE or I-TYPE, got {word!r} and {tag[:60]!r}"
        )
    return word, tag


def _view(examples: list[Tagged], protocol: Protocol) -> tuple[list[Tagged], list[str]]:
    if protocol.labels == "own":
        return examples, []
    types = {tag[2:] for example in examples for tag in example.labels if tag != "O"}
    renamed = sorted(f"{a} as {COMMON[a]}" for a in types if COMMON.get(a, a) != a)
    dropped = sorted(types - COMMON.keys())
    notes = []
    if renamed or dropped:
        parts = [f"{', '.join(renamed)}"] * bool(renamed)
        parts += [f"{', '.join(dropped)} as no entity"] * bool(dropped)
        notes = [f"entity types counted: {'; '.join(parts)}"]
    return [
        Tagged(e.words, tuple(_common(tag) for tag in e.labels), e.where) for e in examples
    ], notes


def _common(tag: str) -> str:
    kind = COMMON.get(tag[2:])
    return "O" if kind is None else tag[:2] + kind


def _labels(examples: Sequence[Tagged]) -> tuple[str, ...]:
    types = sorted({tag[2:] for example in examples for tag in example.labels if tag != "O"})
    if not types:
        raise XevalError(f"{examples[0].where}: the training data names no entity of a known type")
    return ("O", *(f"{place}-{kind}" for kind in types for place in "BI"))


def _hub_example(row: Row, names: LabelNames, where: str) -> Tagged:
    tags = tuple(label_name(tag, names, "ner_tags") for tag in row["ner_tags"])
    return Tagged(tuple(row["tokens"]), tags, where)


_TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-DATE", "I-DATE"]

TASK = word_labelling(
    name="ner",
    title="named entities",
    folder="ner",
    suffix="txt",
    metric="f1",
    count=entity_counts,
    read=_read,
    view=_view,
    labels=_labels,
    own_settings=("labels",),
    hub=(
        HubSet(
            name="wikiann",
            repository="unimelb-nlp/wikiann",
            example=_hub_example,
            labels={"ner_tags": _TAGS[:7]},
            languages="176, by the codes of their Wikipedias",
            licence="not stated; the texts are Wikipedia's (CC BY-SA)",
            citation="Pan et al. 2017: Cross-lingual Name Tagging and Linking for 282 Languages; splits of Rahimi et al. 2019",
        ),
        HubSet(
            name="masakhaner",
            repository="masakhane/masakhaner",
            example=_hub_example,
            labels={"ner_tags": _TAGS},
            revision=CONVERTED,
            languages="amh hau ibo kin lug luo pcm swa wol yor",
            licence="not stated on the Hub",
            citation="Adelani et al. 2021: MasakhaNER: Named Entity Recognition for African Languages",
        ),
        HubSet(
            name="masakhaner2",
            repository="masakhane/masakhaner2",
            example=_hub_example,
            labels={"ner_tags": _TAGS},
            revision=CONVERTED,
            languages="bam bbj ewe fon hau ibo kin lug luo mos nya pcm sna swa tsn twi wol xho yor zul",
            licence="AFL 3.0",
            citation="Adelani et al. 2022: MasakhaNER 2.0: Africa-centric Transfer Learning for Named Entity Recognition",
        ),
    ),
)
