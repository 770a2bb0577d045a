"""Data sets in a local folder: which there are."""

from dataclasses import dataclass, field
from pathlib import Path

from xeval.errors import XevalError
from xeval.task_templates.files import UNPACKERS

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set of one task and language.

    Args:
        name: such as "ud/de_gsd".
        language: the part of the last name before the underscore, such as "de".
        splits: which of train, dev and test there are.
        files: the file of each split, where the set lies in a folder.
    """

    name: str
    language: str
    splits: tuple[str, ...]
    files: dict[str, Path] = field(default_factory=dict, compare=False)

    @property
    def short(self) -> str:
        """The name within its task, such as "de_gsd"."""
        return self.name.rpartition("/")[2]


def find_data_sets(root: Path, folder: str, suffix: str, inside: str = "") -> list[DataSet]:
    """The data sets of one task in a local folder.

    A set is `root/folder/<name>/<split>.<suffix>`, or `root/folder/<name>.<suffix>`, which is its test split; either
    may end in .xz or .gz. Where `inside` names a folder, a set is `root/folder/<name>/<inside>/<split>.<suffix>` alone. The
    language is the part of the name before the first underscore. Hidden files and folders (`._de.tsv`, `.ipynb_checkpoints`) are none.

    Raises:
        XevalError: when the folder is absent, holds no such file, or two files for one split of a set.
    """
    top = root / folder
    within = f"{inside}/" if inside else ""
    if not top.is_dir():
        single = "" if inside else f" or {folder}/<name>.{suffix}[.xz|.gz]"
        raise XevalError(
            f"{top}: no such folder; the task reads {folder}/<name>/{within}<split>.{suffix}[.xz|.gz]{single}"
        )
    files_of: dict[str, dict[str, Path]] = {}
    for ending in UNPACKERS:
        for path in [] if inside else sorted(top.glob(f"[!.]*.{suffix}{ending}")):
            _add(files_of, path.name.removesuffix(f".{suffix}{ending}"), "test", path)
        for path in sorted(top.glob(f"[!.]*/{within}*.{suffix}{ending}")):
            split = path.name.removesuffix(f".{suffix}{ending}")
            if split in SPLITS:
                _add(files_of, path.relative_to(top).parts[0], split, path)
    for path in sorted(top.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            files_of.setdefault(path.name, {})
    if not files_of:
        raise XevalError(f"{top}: holds no <name>/<split>.{suffix} and no <name>.{suffix} file")
    return [
        DataSet(
            name=f"{folder}/{name}",
            language=name.partition("_")[0],
            splits=tuple(split for split in SPLITS if split in files),
            files=files,
        )
        for name, files in sorted(files_of.items())
    ]


def _add(files_of: dict[str, dict[str, Path]], name: str, split: str, path: Path) -> None:
    of_set = files_of.setdefault(name, {})
    if split in of_set:
        raise XevalError(
            f"{of_set[split]} and {path} are both the {split} split of {name}; leave one of them"
        )
    of_set[split] = path
