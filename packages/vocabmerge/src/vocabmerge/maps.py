"""Teacher id → student ids: the artefact that the signal reader, the loss and the embedding initialiser share."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vocabmerge.errors import VocabularyError

FORMAT = "vocabulary-map/1"


@dataclass(frozen=True, kw_only=True, eq=False)
class VocabularyMap:
    """For each of `V_t` teacher ids its student ids: row t is `ids[offsets[t]:offsets[t + 1]]`.

    One id where the student has the same piece, several where it spells the piece with several of its own, none where
    it has no way to say it.

    Args:
        offsets: int64 [V_t + 1], ascending from 0 to nnz.
        ids: int32 [nnz], student ids below `student_size`.
        student_size: V_s, the student's largest id plus one.
        teacher_digest: `tokenizer_digest` of the teacher's tokenizer.
        student_digest: `tokenizer_digest` of the student's tokenizer.
        teacher: name of the teacher, for people.
        student: name of the student, for people.

    Raises:
        VocabularyError: the arrays contradict each other.
    """

    offsets: NDArray[np.int64] = field(repr=False)
    ids: NDArray[np.int32] = field(repr=False)
    student_size: int
    teacher_digest: str = ""
    student_digest: str = ""
    teacher: str = "teacher"
    student: str = "student"

    def __post_init__(self) -> None:
        offsets = np.ascontiguousarray(self.offsets, dtype=np.int64)
        ids = np.ascontiguousarray(self.ids, dtype=np.int32)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "ids", ids)
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(ids):
            raise VocabularyError(
                f"map {self.teacher} → {self.student}: offsets must run from 0 to {len(ids)}, "
                f"got {offsets[[0, -1]].tolist() if len(offsets) else []!r}"
            )
        if np.any(np.diff(offsets) < 0):
            raise VocabularyError(f"map {self.teacher} → {self.student}: offsets must not descend")
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.student_size:
            raise VocabularyError(
                f"map {self.teacher} → {self.student}: student ids must lie in [0, {self.student_size}), "
                f"got {int(ids.min())} to {int(ids.max())}"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, teacher_id: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[teacher_id] : self.offsets[teacher_id + 1]]

    @property
    def counts(self) -> dict[str, int]:
        """How many teacher ids have one, several and no student id."""
        lengths = np.diff(self.offsets)
        return {
            "one_to_one": int((lengths == 1).sum()),
            "one_to_several": int((lengths > 1).sum()),
            "none": int((lengths == 0).sum()),
        }

    def one_to_one(self) -> NDArray[np.int64]:
        """The student id of each teacher id [V_t]; -1 where it has several or none."""
        student_ids = np.full(len(self), -1, dtype=np.int64)
        single = np.diff(self.offsets) == 1
        student_ids[single] = self.ids[self.offsets[:-1][single]]
        return student_ids

    def compose(self, then: "VocabularyMap") -> "VocabularyMap":
        """The map A → C of this one, A → B, and `then`, B → C; no id where a step of the way has none."""
        if len(then) != self.student_size:
            raise VocabularyError(
                f"cannot compose {self.teacher} → {self.student} with {then.teacher} → {then.student}: "
                f"the first ends in {self.student_size} ids, the second starts from {len(then)}"
            )
        if (
            self.student_digest
            and then.teacher_digest
            and self.student_digest != then.teacher_digest
        ):
            raise VocabularyError(
                f"cannot compose {self.teacher} → {self.student} with {then.teacher} → {then.student}: "
                f"digests {self.student_digest[:12]} and {then.teacher_digest[:12]} are of different tokenizers"
            )
        lengths = np.diff(then.offsets)
        rows = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        broken = np.zeros(len(self), dtype=bool)
        broken[rows[lengths[self.ids] == 0]] = True
        middle = self.ids[~broken[rows]]
        taken = lengths[middle]
        starts = np.repeat(then.offsets[:-1][middle] - (np.cumsum(taken) - taken), taken)
        ids = then.ids[starts + np.arange(int(taken.sum()))]
        per_row = np.bincount(rows[~broken[rows]], weights=taken, minlength=len(self))
        return VocabularyMap(
            offsets=np.concatenate([[0], np.cumsum(per_row.astype(np.int64))]),
            ids=ids,
            student_size=then.student_size,
            teacher_digest=self.teacher_digest,
            student_digest=then.student_digest,
            teacher=self.teacher,
            student=then.student,
        )

    def inverse(self) -> "VocabularyMap":
        """Student id → teacher id on the one-to-one pieces; the smallest teacher id where several share a student id."""
        forward = self.one_to_one()
        backward = np.full(self.student_size, -1, dtype=np.int64)
        hit = np.flatnonzero(forward >= 0)[::-1]
        backward[forward[hit]] = hit
        return map_of_ids(
            backward,
            student_size=len(self),
            teacher_digest=self.student_digest,
            student_digest=self.teacher_digest,
            teacher=self.student,
            student=self.teacher,
        )

    def save(self, path: str | Path) -> None:
        """Write the map as safetensors, under a temporary name first."""
        path = Path(path)
        header = {
            "format": FORMAT,
            "teacher": self.teacher,
            "student": self.student,
            "teacher_digest": self.teacher_digest,
            "student_digest": self.student_digest,
            "student_size": str(self.student_size),
            **{name: str(count) for name, count in self.counts.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            # One entry: safetensors writes several in an order that changes from run to run.
            metadata = {"vocabulary_map": json.dumps(header, sort_keys=True)}
            save_file({"offsets": self.offsets, "ids": self.ids}, temporary, metadata=metadata)
            temporary.replace(path)


def map_of_ids(
    student_ids: ArrayLike,
    *,
    student_size: int,
    teacher_digest: str = "",
    student_digest: str = "",
    teacher: str = "teacher",
    student: str = "student",
) -> VocabularyMap:
    """The map with at most one student id per teacher id.

    Args:
        student_ids: int [V_t], the student id of each teacher id, negative for none.
        student_size: V_s.
        teacher_digest: of the teacher's tokenizer.
        student_digest: of the student's tokenizer.
        teacher: name of the teacher.
        student: name of the student.

    Returns:
        The map.

    Example:
        >>> map_of_ids([2, -1, 0], student_size=3).counts
        {'one_to_one': 2, 'one_to_several': 0, 'none': 1}
    """
    ids = np.asarray(student_ids, dtype=np.int64)
    return VocabularyMap(
        offsets=np.concatenate([[0], np.cumsum(ids >= 0)]),
        ids=ids[ids >= 0].astype(np.int32),
        student_size=student_size,
        teacher_digest=teacher_digest,
        student_digest=student_digest,
        teacher=teacher,
        student=student,
    )


def map_of_lists(
    student_ids: Iterable[Sequence[int]],
    *,
    student_size: int,
    teacher_digest: str = "",
    student_digest: str = "",
    teacher: str = "teacher",
    student: str = "student",
) -> VocabularyMap:
    """The map of explicit lists: student ids of teacher id 0, 1, ….

    Args:
        student_ids: for each of V_t teacher ids, its student ids.
        student_size: V_s.
        teacher_digest: of the teacher's tokenizer.
        student_digest: of the student's tokenizer.
        teacher: name of the teacher.
        student: name of the student.

    Returns:
        The map.

    Example:
        >>> map_of_lists([[2], [], [0, 1]], student_size=3)[2].tolist()
        [0, 1]
    """
    rows = list(student_ids)
    flat = [number for row in rows for number in row]
    return VocabularyMap(
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        ids=np.array(flat, dtype=np.int32),
        student_size=student_size,
        teacher_digest=teacher_digest,
        student_digest=student_digest,
        teacher=teacher,
        student=student,
    )


def identity_map(size: int, *, digest: str = "", name: str = "teacher") -> VocabularyMap:
    """Every id to itself.

    Args:
        size: number of ids.
        digest: of the tokenizer.
        name: of the tokenizer.

    Example:
        >>> identity_map(3).one_to_one().tolist()
        [0, 1, 2]
    """
    return map_of_ids(
        np.arange(size),
        student_size=size,
        teacher_digest=digest,
        student_digest=digest,
        teacher=name,
        student=name,
    )


def load_map(path: str | Path) -> VocabularyMap:
    """Read a map that `VocabularyMap.save` wrote.

    Args:
        path: the file.

    Returns:
        The map.

    Raises:
        VocabularyError: the file is missing, cut short, or no vocabulary map.

    Example:
        >>> identity_map(3).save("same.safetensors")
        >>> load_map("same.safetensors").counts
        {'one_to_one': 3, 'one_to_several': 0, 'none': 0}
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("vocabulary_map", "{}"))
            if header.get("format") != FORMAT:
                raise VocabularyError(
                    f"{path}: expected a file of format {FORMAT!r}, got {header.get('format')!r}"
                )
            loaded = VocabularyMap(
                offsets=file.get_tensor("offsets"),
                ids=file.get_tensor("ids"),
                student_size=int(header["student_size"]),
                teacher_digest=header["teacher_digest"],
                student_digest=header["student_digest"],
                teacher=header["teacher"],
                student=header["student"],
            )
    except (OSError, SafetensorError, KeyError) as error:
        raise VocabularyError(
            f"{path}: cannot read the vocabulary map ({error}); write it again with vocabmerge"
        ) from error
    return loaded
