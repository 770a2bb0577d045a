"""The standard sets on the Hugging Face Hub, streamed: which repository, which configuration, which columns."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xeval.data.folder import DataSet
from xeval.errors import XevalError
from xeval.task_templates.task import Readable
from xeval.task_templates.text_labels import Labelled
from xeval.task_templates.word_labels import Tagged
from xeval.tasks.choice import Choice
from xeval.tasks.dp import Parsed
from xeval.tasks.qa import Question
from xeval.tasks.retrieval import Pair

Row = Mapping[str, Any]
Names = Mapping[str, list[str]]

# Loading scripts no longer run; the Hub keeps what they made under this revision.
_CONVERTED = "refs/convert/parquet"
# Codes of three letters to those of two, so that sets name a language alike.
_SHORT = {
    "amh": "am", "ara": "ar", "bam": "bm", "ben": "bn", "deu": "de", "ell": "el", "eng": "en", "ewe": "ee",
    "fin": "fi", "fra": "fr", "hau": "ha", "hin": "hi", "ibo": "ig", "ind": "id", "ita": "it", "jpn": "ja",
    "kin": "rw", "kor": "ko", "lin": "ln", "lug": "lg", "mar": "mr", "nya": "ny", "orm": "om", "por": "pt",
    "run": "rn", "rus": "ru", "sna": "sn", "som": "so", "spa": "es", "swa": "sw", "swh": "sw", "tam": "ta",
    "tel": "te", "tha": "th", "tir": "ti", "tsn": "tn", "tur": "tr", "twi": "tw", "urd": "ur", "vie": "vi",
    "wol": "wo", "xho": "xh", "yor": "yo", "zho": "zh", "cmn": "zh", "arb": "ar", "zul": "zu",
}  # fmt: skip
_TYDI = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}


@dataclass(frozen=True, kw_only=True)
class _Standard:
    """One standard set.

    Args:
        repository: on the Hub.
        tasks: what it is for, and how a row becomes an example: (row, label names, where) to an example, or None for
            a row of another language.
        configuration: a pattern of the configurations that are meant; its group is the language.
        splits: ours to theirs.
        revision: of the repository.
        languages: those of a set whose configurations are not languages.
        labels: names of label numbers where the set does not give them.
    """

    repository: str
    tasks: Mapping[str, Callable[[Row, Names, str], Any]]
    splits: Mapping[str, str]
    configuration: str = r"([a-z]{2,3})"
    revision: str | None = None
    languages: Mapping[str, str] = field(default_factory=dict)
    labels: Names = field(default_factory=dict)


@dataclass(frozen=True)
class HubSet:
    """A standard set on the Hub, such as `HubSet("wikiann")`.

    Args:
        name: a key of the list below.
    """

    name: str

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in STANDARD:
            raise XevalError(
                f"hub:{self.name}: no such standard set; there are {', '.join(sorted(STANDARD))}"
            )

    def data_sets(self, task: Readable) -> list[DataSet]:
        """The languages of the set."""
        standard = self._standard(task)
        splits = tuple(standard.splits)
        if standard.languages:
            found = {language: language for language in standard.languages}
        else:
            found = {}
            for configuration in self._configurations(standard):
                if match := re.fullmatch(standard.configuration, configuration):
                    found[configuration] = _SHORT.get(match[1], match[1])
        return [
            DataSet(name=f"{self.name}/{configuration}", language=language, splits=splits)
            for configuration, language in sorted(found.items())
        ]

    def read(self, task: Readable, data_set: DataSet, split: str) -> list[Any]:
        """The examples of a split."""
        standard = self._standard(task)
        configuration = standard.languages.get(data_set.short, data_set.short)
        where = f"hub:{data_set.name}, {split}"
        if split not in standard.splits:
            raise XevalError(
                f"{where}: the set has no {split} split, only {', '.join(standard.splits)}"
            )
        rows = self._rows(standard, configuration, standard.splits[split])
        make = standard.tasks[task.name]
        try:
            examples = list(_examples(rows, make, standard.labels, data_set.language, where))
        except (KeyError, IndexError, TypeError) as error:
            raise XevalError(
                f"{where}: the rows are not as expected ({error!r}); the set may have changed on the Hub"
            ) from error
        if not examples:
            raise XevalError(f"{where}: holds no example")
        return examples

    def digest(self, task: Readable, data_set: DataSet, split: str) -> str:
        """The commit that the set stands at: nothing has to be read for it."""
        return f"{data_set.name}/{split}@{self._info(self._standard(task)).sha}"

    def _configurations(self, standard: _Standard) -> list[str]:
        import datasets

        if standard.revision is None:
            names: list[str] = self._online(
                datasets.get_dataset_config_names, standard.repository, standard=standard
            )
            return names
        # The converted files lie in CONFIGURATION/SPLIT/, and no card beside them names the configurations.
        files = [file.rfilename for file in self._info(standard).siblings or ()]
        return sorted({file.partition("/")[0] for file in files if file.endswith(".parquet")})

    def _rows(self, standard: _Standard, configuration: str, split: str) -> Any:
        import datasets

        options: dict[str, Any] = {"split": split, "streaming": True}
        if standard.revision is None:
            wanted = (standard.repository, configuration)
        else:
            wanted = ("parquet", "default")
            at = f"{standard.repository}@{self._info(standard).sha}"
            options["data_files"] = {split: f"hf://datasets/{at}/{configuration}/{split}/*.parquet"}
        return self._online(
            datasets.load_dataset,
            *wanted,
            standard=standard,
            configuration=configuration,
            **options,
        )

    def _info(self, standard: _Standard) -> Any:
        """What the Hub says of the repository: its commit and its files."""
        from huggingface_hub import HfApi

        ask = HfApi().dataset_info
        return self._online(ask, standard.repository, standard=standard, revision=standard.revision)

    def _standard(self, task: Readable) -> _Standard:
        standard = STANDARD[self.name]
        if task.name not in standard.tasks:
            raise XevalError(
                f"hub:{self.name}: is a set for {', '.join(standard.tasks)}, not for {task.name!r}"
            )
        return standard

    def _online(
        self,
        ask: Callable[..., Any],
        *args: Any,
        standard: _Standard,
        configuration: str | None = None,
        **options: Any,
    ) -> Any:
        """What the Hub answers, or what to download where it cannot be asked."""
        try:
            return ask(*args, **options)
        # What a missing network raises are types of several libraries, with no other base in common.
        except Exception as error:
            offline = os.environ.get("HF_HUB_OFFLINE", "0") not in {"0", ""}
            said = str(error).strip().splitlines() or [type(error).__name__]
            reason = "HF_HUB_OFFLINE is set" if offline else said[0]
            at = f"https://huggingface.co/datasets/{standard.repository}"
            if standard.revision:
                at += f"/tree/{standard.revision.replace('/', '%2F')}"
            raise XevalError(
                f"hub:{self.name}: cannot be read from the Hub ({reason}); go online, or download {at}"
                f"{f' (configuration {configuration})' if configuration else ''} and lay it out as a data folder (see the README)"
            ) from error


def _examples(
    rows: Any,
    make: Callable[[Row, Names, str], Any],
    labels: Names,
    language: str,
    where: str,
) -> Iterator[Any]:
    names: dict[str, list[str]] = {**labels, "language": [language]}
    for column, feature in (getattr(rows, "features", None) or {}).items():
        inner = getattr(feature, "feature", feature)
        if found := getattr(inner, "names", None):
            names[column] = list(found)
    for number, row in enumerate(rows):
        example = make(row, names, f"{where}, row {number}")
        if example is not None:
            yield example


def _name(value: object, names: Names, column: str) -> str:
    return names[column][value] if isinstance(value, int) and column in names else str(value)


def _pair_of(first: str, second: str) -> Callable[[Row, Names, str], Labelled]:
    def make(row: Row, names: Names, where: str) -> Labelled:
        label = _name(row["label"], names, "label")
        return Labelled(text=row[first], second=row[second], label=label, where=where)

    return make


def _one_text(text: str, label: str) -> Callable[[Row, Names, str], Labelled]:
    def make(row: Row, names: Names, where: str) -> Labelled:
        return Labelled(text=row[text], label=_name(row[label], names, label), where=where)

    return make


def _entities(row: Row, names: Names, where: str) -> Tagged:
    tags = tuple(_name(tag, names, "ner_tags") for tag in row["ner_tags"])
    return Tagged(tuple(row["tokens"]), tags, where)


def _words(row: Row) -> list[int]:
    """The rows of a sentence that are syntactic words: neither multiword ranges nor empty nodes."""
    ids = row.get("idx") or list(map(str, range(1, len(row["tokens"]) + 1)))
    return [i for i, one in enumerate(ids) if str(one).isdigit()]


def _tags(row: Row, names: Names, where: str) -> Tagged:
    words = _words(row)
    tags = tuple(_name(row["upos"][i], names, "upos") for i in words)
    return Tagged(tuple(row["tokens"][i] for i in words), tags, where)


def _tree(row: Row, _names: Names, where: str) -> Parsed:
    words = _words(row)
    return Parsed(
        tuple(row["tokens"][i] for i in words),
        tuple(int(row["head"][i]) for i in words),
        tuple(row["deprel"][i].partition(":")[0] for i in words),
        where,
    )


def _question(row: Row, _names: Names, where: str) -> Question:
    answers = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    return Question(row["question"], row["context"], tuple(dict.fromkeys(answers)), where)


def _tydi_question(row: Row, names: Names, where: str) -> Question | None:
    if row["id"].partition("-")[0] != _TYDI[names["language"][0]]:
        return None
    return _question(row, names, where)


def _options(row: Row, _names: Names, where: str) -> Choice:
    return Choice(
        row["flores_passage"],
        row["question"],
        tuple(row[f"mc_answer{number}"] for number in range(1, 5)),
        int(row["correct_answer_num"]) - 1,
        where,
    )


def _translation(row: Row, _names: Names, _where: str) -> Pair:
    return Pair(row["sentence1"], row["sentence2"])


_THREE = {"train": "train", "dev": "validation", "test": "test"}
_NLI = {"label": ["entailment", "neutral", "contradiction"]}
_NER = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-DATE", "I-DATE"]

STANDARD: dict[str, _Standard] = {
    "xnli": _Standard(
        repository="facebook/xnli",
        tasks={"nli": _pair_of("premise", "hypothesis")},
        splits=_THREE,
        labels=_NLI,
    ),
    "americasnli": _Standard(
        repository="nala-cub/americas_nli",
        tasks={"nli": _pair_of("premise", "hypothesis")},
        splits={"dev": "validation", "test": "test"},
        labels=_NLI,
    ),
    "paws-x": _Standard(
        repository="google-research-datasets/paws-x",
        tasks={"paraphrase": _pair_of("sentence1", "sentence2")},
        splits=_THREE,
    ),
    "wikiann": _Standard(
        repository="unimelb-nlp/wikiann",
        tasks={"ner": _entities},
        splits=_THREE,
        labels={"ner_tags": _NER[:7]},
    ),
    "masakhaner": _Standard(
        repository="masakhane/masakhaner",
        tasks={"ner": _entities},
        splits=_THREE,
        revision=_CONVERTED,
        labels={"ner_tags": _NER},
    ),
    "masakhaner2": _Standard(
        repository="masakhane/masakhaner2",
        tasks={"ner": _entities},
        splits=_THREE,
        revision=_CONVERTED,
        labels={"ner_tags": _NER},
    ),
    "ud": _Standard(
        repository="universal-dependencies/universal_dependencies",
        tasks={"pos": _tags, "dp": _tree},
        splits=_THREE,
        configuration=r"([a-z]{2,3})_[a-z]+",
    ),
    "squad": _Standard(
        repository="rajpurkar/squad",
        tasks={"qa": _question},
        splits={"train": "train", "dev": "validation"},
        languages={"en": "plain_text"},
    ),
    "xquad": _Standard(
        repository="google/xquad",
        tasks={"qa": _question},
        splits={"test": "validation"},
        configuration=r"xquad\.([a-z]{2})",
    ),
    "mlqa": _Standard(
        repository="facebook/mlqa",
        tasks={"qa": _question},
        splits={"dev": "validation", "test": "test"},
        configuration=r"mlqa\.([a-z]{2})\.\1",
        revision=_CONVERTED,
    ),
    "tydiqa": _Standard(
        repository="google-research-datasets/tydiqa",
        tasks={"qa": _tydi_question},
        splits={"train": "train", "test": "validation"},
        languages=dict.fromkeys(_TYDI, "secondary_task"),
    ),
    "sib200": _Standard(
        repository="Davlan/sib200",
        tasks={"topic": _one_text("text", "category")},
        splits=_THREE,
        configuration=r"([a-z]{3})_[A-Z][a-z]{3}",
    ),
    "belebele": _Standard(
        repository="facebook/belebele",
        tasks={"choice": _options},
        splits={"test": "test"},
        configuration=r"([a-z]{3})_[A-Z][a-z]{3}",
    ),
    "masakhanews": _Standard(
        repository="masakhane/masakhanews",
        tasks={"topic": _one_text("headline_text", "label")},
        splits=_THREE,
        revision=_CONVERTED,
    ),
    "tatoeba": _Standard(
        repository="mteb/tatoeba-bitext-mining",
        tasks={"retrieval": _translation},
        splits={"test": "test"},
        configuration=r"([a-z]{3})-eng",
    ),
}
