"""The standard sets of the Hugging Face Hub, streamed; which there are, the tasks say."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from xeval.data.folder import DataSet
from xeval.errors import XevalError
from xeval.task_templates.hub import CONVERTED, MOVING, HubSet
from xeval.task_templates.task import Task
from xeval.tasks import TASKS

# Codes of three letters to those of two, so that sets name a language alike.
_SHORT = {
    "amh": "am", "ara": "ar", "bam": "bm", "ben": "bn", "deu": "de", "ell": "el", "eng": "en", "ewe": "ee",
    "fin": "fi", "fra": "fr", "hau": "ha", "hin": "hi", "ibo": "ig", "ind": "id", "ita": "it", "jpn": "ja",
    "kin": "rw", "kor": "ko", "lin": "ln", "lug": "lg", "mar": "mr", "nya": "ny", "orm": "om", "por": "pt",
    "run": "rn", "rus": "ru", "sna": "sn", "som": "so", "spa": "es", "swa": "sw", "swh": "sw", "tam": "ta",
    "tel": "te", "tha": "th", "tir": "ti", "tsn": "tn", "tur": "tr", "twi": "tw", "urd": "ur", "vie": "vi",
    "wol": "wo", "xho": "xh", "yor": "yo", "zho": "zh", "cmn": "zh", "arb": "ar", "zul": "zu",
}  # fmt: skip


def hub_sets() -> dict[str, dict[str, HubSet]]:
    """The standard sets by name, and each by the tasks that it is for."""
    sets: dict[str, dict[str, HubSet]] = {}
    for task in TASKS.values():
        for hub_set in task.hub:
            sets.setdefault(hub_set.name, {})[task.name] = hub_set
    return sets


@dataclass(frozen=True)
class HubSource:
    """A standard set on the Hub, such as `HubSource("wikiann")`.

    Args:
        name: a key of `hub_sets`.
    """

    name: str

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in (known := hub_sets()):
            raise XevalError(
                f"hub:{self.name}: no such standard set; there are {', '.join(sorted(known))}"
            )

    def data_sets(self, task: Task) -> list[DataSet]:
        """The languages of the set."""
        hub_set = self._hub_set(task)
        languages = {
            configuration: _SHORT.get(match[1], match[1])
            for configuration in self._configurations(hub_set)
            if (match := re.fullmatch(_pattern(hub_set), configuration))
        }
        return [
            DataSet(
                name=f"{self.name}/{configuration}",
                language=language,
                splits=tuple(hub_set.splits),
            )
            for configuration, language in sorted(languages.items())
        ]

    def read(self, task: Task, data_set: DataSet, split: str) -> list[Any]:
        """The examples of a split."""
        hub_set = self._hub_set(task)
        configuration = data_set.short
        if not isinstance(hub_set.configurations, str):
            configuration = hub_set.configurations[data_set.short]
        where = f"hub:{data_set.name}, {split}"
        if split not in hub_set.splits:
            raise XevalError(
                f"{where}: the set has no {split} split, only {', '.join(hub_set.splits)}"
            )
        rows = self._rows(hub_set, configuration, hub_set.splits[split])
        try:
            examples = list(_examples(rows, hub_set, data_set.language, where))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, XevalError):
                raise
            raise XevalError(
                f"{where}: the rows are not as expected ({error!r}); the set may have changed on the Hub"
            ) from error
        if not examples:
            raise XevalError(f"{where}: holds no example")
        return examples

    def digest(self, task: Task, data_set: DataSet, split: str) -> str:
        """The commit that the set stands at: nothing has to be read for it."""
        return f"{data_set.name}/{split}@{self._info(self._hub_set(task)).sha}"

    def _configurations(self, hub_set: HubSet) -> list[str]:
        """Names of configurations; of a set whose configurations are not languages, the languages."""
        import datasets

        if not isinstance(hub_set.configurations, str):
            return list(hub_set.configurations)
        if hub_set.revision != CONVERTED:
            names: list[str] = self._online(
                datasets.get_dataset_config_names,
                hub_set.repository,
                hub_set=hub_set,
                **_at_commit(hub_set),
            )
            return names
        # The converted files lie in CONFIGURATION/SPLIT/, and no card beside them names the configurations.
        files = [file.rfilename for file in self._info(hub_set).siblings or ()]
        return sorted({file.partition("/")[0] for file in files if file.endswith(".parquet")})

    def _rows(self, hub_set: HubSet, configuration: str, split: str) -> Any:
        import datasets

        options: dict[str, Any] = {"split": split, "streaming": True}
        if hub_set.revision != CONVERTED:
            wanted = (hub_set.repository, configuration)
            options.update(_at_commit(hub_set))
        else:
            wanted = ("parquet", "default")
            at = f"{hub_set.repository}@{self._info(hub_set).sha}"
            options["data_files"] = {split: f"hf://datasets/{at}/{configuration}/{split}/*.parquet"}
        return self._online(
            datasets.load_dataset,
            *wanted,
            hub_set=hub_set,
            configuration=configuration,
            **options,
        )

    def _info(self, hub_set: HubSet) -> Any:
        """What the Hub says of the repository: its commit and its files."""
        from huggingface_hub import HfApi

        revision = _at_commit(hub_set).get("revision")
        ask = HfApi().dataset_info
        return self._online(ask, hub_set.repository, hub_set=hub_set, revision=revision)

    def _hub_set(self, task: Task) -> HubSet:
        for hub_set in task.hub:
            if hub_set.name == self.name:
                return hub_set
        tasks = ", ".join(hub_sets()[self.name])
        raise XevalError(f"hub:{self.name}: is a set for {tasks}, not for {task.name!r}")

    def _online(
        self,
        ask: Callable[..., Any],
        *args: Any,
        hub_set: HubSet,
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
            at = f"https://huggingface.co/datasets/{hub_set.repository}"
            if revision := _at_commit(hub_set).get("revision"):
                at += f"/tree/{revision.replace('/', '%2F')}"
            raise XevalError(
                f"hub:{self.name}: cannot be read from the Hub ({reason}); go online, or download {at}"
                f"{f' (configuration {configuration})' if configuration else ''} and lay it out as a data folder (see the README)"
            ) from error


def _pattern(hub_set: HubSet) -> str:
    return hub_set.configurations if isinstance(hub_set.configurations, str) else "(.*)"


def _at_commit(hub_set: HubSet) -> dict[str, str]:
    return {} if hub_set.revision == MOVING else {"revision": hub_set.revision}


def _examples(rows: Any, hub_set: HubSet, language: str, where: str) -> Iterator[Any]:
    names: dict[str, list[str]] = {**hub_set.labels, "language": [language]}
    for column, feature in (getattr(rows, "features", None) or {}).items():
        inner = getattr(feature, "feature", feature)
        if label_names := getattr(inner, "names", None):
            names[column] = list(label_names)
    for number, row in enumerate(rows):
        example = hub_set.example(row, names, f"{where}, row {number}")
        if example is not None:
            yield example
