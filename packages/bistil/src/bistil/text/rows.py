"""Lines of text as rows of token ids, one a sentence, and padded batches of them: for sentence encoders and classifiers."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bistil.errors import ExtractError
from bistil.text.batches import Schedule
from teacherzoo import Corpus, CorpusError
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_text
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import DIGEST_BYTES, Part, document_digest, is_held_out

if TYPE_CHECKING:
    from teacherzoo import Vectors

_TOGETHER = 2000  # rows tokenized in one call
_HELD_OUT_BATCHES = 8
_IDS, _TYPES, _ENDS, _DIGESTS = "ids.int32", "types.int8", "ends.int64", "digests"
_PAIRS = " (pairs)"  # behind the language, in the name of a group of translation pairs

Form = Literal["lines", "pairs"]


@dataclass(frozen=True)
class Rows:
    """Rows of different lengths, behind one another.

    Attributes:
        ids: of all tokens.
        ends: [N] where each row ends.
        digests: [N, 16] of prompt and text, see `row_digest`.
        types: of all tokens, their segments; None where a row is of one segment.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    digests: NDArray[np.uint8]
    types: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row."""
        return np.diff(self.ends, prepend=0)

    def padded(self, numbers: Sequence[int] | NDArray[np.int64], pad: int) -> dict[str, torch.Tensor]:  # fmt: skip
        """These rows: `input_ids` and `attention_mask` [B, S], and `token_type_ids` where rows have segments."""
        lengths = self.lengths[numbers]
        mask = np.arange(lengths.max()) < lengths[:, None]
        places = [np.arange(self.ends[number] - self.lengths[number], self.ends[number]) for number in numbers]  # fmt: skip
        flat = np.concatenate(places)
        batch = {"input_ids": np.full(mask.shape, pad, dtype=np.int64), "attention_mask": mask.astype(np.int64)}  # fmt: skip
        batch["input_ids"][mask] = self.ids[flat]
        if self.types is not None:
            batch["token_type_ids"] = np.zeros(mask.shape, dtype=np.int64)
            batch["token_type_ids"][mask] = self.types[flat]
        return {name: torch.from_numpy(array) for name, array in batch.items()}


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows that may share a batch: of one language and one prompt.

    Attributes:
        language: of the rows.
        rows: of text, or of translations.
        prompt_length: leading tokens that the prompt takes.
        sources: of translations, what they translate, row by row.
    """

    language: str
    rows: Rows
    prompt_length: int = 0
    sources: Rows | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row; of pairs, of the longer side."""
        if self.sources is None:
            return self.rows.lengths
        return np.maximum(self.rows.lengths, self.sources.lengths)


class TextRows:
    """Lines of text as teacher and student read them, each with the tokenizer's frame around, cut at `length`.

    Repeated lines are dropped, some are held out by content, and prompts take turns from line to line. The first process
    cuts the text and writes it; every process reads it from disk as batches ask for it.

    Args:
        files: per language, the source first.
        tokenizer: a fast tokenizer of transformers.
        tokenizer_digest: of it.
        cache_dir: where rows are made once and stay.
        length: S, the most tokens of a row.
        batch: rows in a batch.
        held_out_share: of each text, by content.
        seed: of the order.
        form: "lines" are rows of their own; in "pairs" a line `first TAB second` is one row of two segments.
        by_tokens: whether a batch is of as many rows as make `batch` times `length` tokens on the average, not of `batch` rows.
        segments: whether rows of pairs say which tokens are of the second part.
        prompts: put in front of a line, in turn; of pairs in one row, of the first part.
        parallel: per target language files of lines `source TAB target`.
        vectors: what the teacher made of each row, where that was recorded.
        watch: told (done, total, what).

    Raises:
        ExtractError: for a line of pairs without exactly two columns, and where a text has no line to train on.
        CorpusError: for text that cannot be read.
    """

    def __init__(
        self,
        files: Mapping[str, Sequence[Path]],
        tokenizer: Any,
        cache_dir: Path,
        *,
        tokenizer_digest: str,
        length: int,
        batch: int,
        held_out_share: float,
        seed: int,
        form: Form = "lines",
        by_tokens: bool = False,
        segments: bool = True,
        prompts: Sequence[str] = ("",),
        parallel: Mapping[str, Sequence[Path]] | None = None,
        vectors: Vectors | None = None,
        watch: ProgressCallback = no_progress,
    ) -> None:
        self._files, self._parallel = dict(files), dict(parallel or {})
        self._tokenizer, self._tokenizer_digest = tokenizer, tokenizer_digest
        self._length, self._batch, self._seed = length, batch, seed
        self._held_out_share, self._cache_dir, self._watch = held_out_share, cache_dir, watch
        self._form: Form = form
        self._by_tokens, self._segments, self._vectors = by_tokens, segments, vectors
        self._prompts = tuple(dict.fromkeys(prompts)) or ("",)

    @cached_property
    def groups(self) -> dict[str, RowGroup]:
        """What batches are made of, to train on."""
        return self._groups("train")

    @cached_property
    def rows_in_batch(self) -> int:
        """As many in every batch of every group."""
        if not self._by_tokens:
            return self._batch
        lengths = np.concatenate([group.lengths for group in self.groups.values()])
        return max(self._batch, round(self._batch * self._length / float(lengths.mean())))

    masked_positions = 0

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per group, to train on."""
        return {name: len(group.rows) for name, group in self.groups.items()}

    def sample(self, positions: int) -> list[torch.Tensor]:
        """About so many positions of text, shared evenly by the languages, row by row [1, S]."""
        groups = {group.language: group.rows for group in self.groups.values()}
        chosen = []
        for rows in groups.values():
            count = int(np.searchsorted(rows.ends, positions // len(groups))) + 1
            chosen += [rows.padded([number], 0)["input_ids"] for number in range(min(count, len(rows)))]  # fmt: skip
        return chosen

    def batches(self, count: int) -> RowBatches:
        """So many batches; the groups take turns."""
        return self._batches(self.groups, count, seed=self._seed)

    def held_out(self) -> dict[str, list[RowBatches]]:
        """Per language a few batches of each group that is not trained on; languages without are absent."""
        held_out: dict[str, list[RowBatches]] = {}
        for name, group in self._groups("held_out").items():
            count = min(_HELD_OUT_BATCHES, len(group.rows) // self.rows_in_batch)
            if count:
                batches = self._batches({name: group}, count, seed=0)
                held_out.setdefault(group.language, []).append(batches)
        return held_out

    def _batches(self, groups: Mapping[str, RowGroup], count: int, *, seed: int) -> RowBatches:
        slots = Schedule(
            {name: len(group.rows) for name, group in groups.items()},
            batches=count,
            size=self.rows_in_batch,
            seed=seed,
            lengths={name: group.lengths for name, group in groups.items()},
        )
        return RowBatches(
            slots, groups, list(self._files), pad=int(self._tokenizer.pad_token_id or 0), vectors=self._vectors
        )  # fmt: skip

    def _groups(self, part: Part) -> dict[str, RowGroup]:
        groups = {}
        for number, prompt in enumerate(self._prompts):
            length = self._prompt_length(prompt)
            name = f" {number}" if len(self._prompts) > 1 else ""
            for language in self._files:
                rows = self._rows(language, part, number)
                groups[f"{language}{name}"] = RowGroup(
                    language=language, rows=rows[0], prompt_length=length
                )
            for language in self._parallel:
                sources, targets = self._rows(language, part, number, translations=True)
                groups[f"{language}{_PAIRS}{name}"] = RowGroup(
                    language=language, rows=targets, sources=sources, prompt_length=length
                )
        return {name: group for name, group in groups.items() if part == "train" or len(group.rows)}

    def _prompt_length(self, prompt: str) -> int:
        """As sentence-transformers counts it: with the token in front, without the one behind."""
        if not prompt:
            return 0
        ids = self._tokenizer(prompt)["input_ids"]
        return len(ids) - (ids[-1] in (self._tokenizer.sep_token_id, self._tokenizer.eos_token_id))

    def _rows(
        self, language: str, part: Part, prompt: int, *, translations: bool = False
    ) -> list[Rows]:
        files = (self._parallel if translations else self._files)[language]
        inputs = {
            "text": digest_of_text(language, files),
            "tokenizer": self._tokenizer_digest,
            "length": self._length,
            "held_out_share": self._held_out_share,
            "part": part,
            "form": "translations" if translations else self._form,
            "segments": self._segments,
            "prompts": list(self._prompts),
            "prompt": prompt,
        }
        folder = self._cache_dir / f"{language}-{part}-{digest_of_values(inputs)[:16]}"

        def make(work: Path) -> None:
            sides = 2 if translations else 1
            writers = [_RowWriter(work / MADE / str(side)) for side in range(sides)]
            done = 0
            texts = self._texts(language, part, translations=translations)
            rows = (text for number, text in enumerate(texts) if number % len(self._prompts) == prompt)  # fmt: skip
            while some := list(islice(rows, _TOGETHER)):
                for side, writer in enumerate(writers):
                    first = [self._prompts[prompt] + columns[side] for columns in some]
                    second = [columns[1] for columns in some] if inputs["form"] == "pairs" else None
                    writer.add(self._encode(first, second), first, second)
                done += len(some)
                self._watch(done, 0, f"cutting {language}")
            for writer in writers:
                writer.close()
            if part == "train" and not done:
                raise ExtractError(
                    f"{language}: {', '.join(map(str, files))} has no line for the prompt {self._prompts[prompt]!r}; "
                    "give more text."
                )

        made = made_once(folder, inputs, make, watch=self._watch)
        return [_read_rows(made / str(side)) for side in range(2 if translations else 1)]

    def _texts(self, language: str, part: Part, *, translations: bool) -> Iterator[tuple[str, ...]]:
        if translations or self._form == "pairs":
            files = (self._parallel if translations else self._files)[language]
            yield from pairs_of(files, part=part, held_out_share=self._held_out_share)
            return
        corpus = Corpus(language, tuple(self._files[language]), part=part, held_out_share=self._held_out_share)  # fmt: skip
        try:
            for document in corpus.documents():
                yield (document.text,)
        except CorpusError:  # a small corpus may hold nothing out
            if part == "train":
                raise

    def _encode(self, first: list[str], second: list[str] | None) -> Any:
        return self._tokenizer(
            first,
            second,
            truncation="longest_first",
            max_length=self._length,
            return_attention_mask=False,
            return_token_type_ids=second is not None and self._segments,
        )


class RowBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i is batch i of the schedule, padded to its longest row.

    An item has `input_ids`, `attention_mask` [B, S], `language` and `prompt_length` []; `token_type_ids` [B, S] where rows
    have segments; of translation pairs also `source_input_ids` and `source_attention_mask` [B, S']; where the teacher's vectors
    were recorded `teacher_vectors` [B, D], of pairs those of the sources.

    Args:
        slots: group and rows of each.
        groups: by name.
        languages: whose numbers `language` is.
        pad: id that fills rows up.
        vectors: recorded of the teacher.
    """

    def __init__(
        self,
        slots: Schedule,
        groups: Mapping[str, RowGroup],
        languages: Sequence[str],
        *,
        pad: int,
        vectors: Vectors | None = None,
    ) -> None:
        self._slots, self._groups, self._pad, self._vectors = slots, groups, pad, vectors
        self._languages = list(languages)

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        name, numbers = self._slots[index]
        group = self._groups[name]
        batch = group.rows.padded(numbers, self._pad)
        if group.sources is not None:
            sources = group.sources.padded(numbers, self._pad)
            batch |= {f"source_{name}": tensor for name, tensor in sources.items()}
        batch["language"] = torch.tensor(self._languages.index(group.language))
        batch["prompt_length"] = torch.tensor(group.prompt_length)
        if self._vectors is not None:
            vectors = self._vectors.rows(self.digests(index)).astype(np.float32)
            batch["teacher_vectors"] = torch.from_numpy(vectors)
        return batch

    def digests(self, index: int) -> NDArray[np.uint8]:
        """[B, 16] of the rows of item `index`; of translation pairs, of the sources."""
        name, numbers = self._slots[index]
        group = self._groups[name]
        return (group.sources or group.rows).digests[numbers]


def row_digest(text: str, second: str | None = None) -> bytes:
    """The name of a row by content: of prompt and text, and of a second segment behind a tabulator."""
    return document_digest(text if second is None else f"{text}\t{second}")


def pairs_of(
    files: Sequence[Path], *, part: Part = "all", held_out_share: float = 0.0
) -> Iterator[tuple[str, str]]:
    """The pairs in files of lines `first TAB second`, blank lines and repeats dropped.

    Args:
        files: `.txt` or `.tsv`, also `.gz` and `.xz`.
        part: which pairs.
        held_out_share: of them, by content.

    Raises:
        ExtractError: naming file and line, for a line without exactly two columns that are not blank.
        CorpusError: for a file that cannot be read.
    """
    seen = set()
    for file in files:
        for number, line in enumerate(lines_of(file), start=1):
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) != 2 or not all(column.strip() for column in columns):
                filled = sum(bool(column.strip()) for column in columns)
                raise ExtractError(
                    f"{file}, line {number}: expected two columns with a tabulator between them, got {len(columns)}"
                    + (f", of which {filled} with text" if filled < len(columns) else "")
                    + "; write a sentence, a tabulator and its counterpart."
                )
            digest = document_digest(line)
            if digest in seen:
                continue
            seen.add(digest)
            if part == "all" or is_held_out(digest, share=held_out_share) == (part == "held_out"):
                yield columns[0], columns[1]


def lines_of(file: Path) -> Iterator[str]:
    """The lines of a text, also of a `.gz` or `.xz`.

    Raises:
        CorpusError: for a file that cannot be read.
    """
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(file.suffix, open)
    try:
        with opened(file, "rt", encoding="utf-8", newline="\n") as stream:  # type: ignore[operator]  # three of one signature
            for line in stream:
                yield line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise CorpusError(f"{file}: cannot be read as UTF-8 text ({error}).") from error


class _RowWriter:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self._end = folder, 0
        self._streams = {name: (folder / name).open("wb") for name in (_IDS, _ENDS, _DIGESTS)}

    def add(self, encoded: Any, first: Sequence[str], second: Sequence[str] | None) -> None:
        rows = [np.array(ids, dtype=np.int32) for ids in encoded["input_ids"]]
        ends = self._end + np.cumsum([len(row) for row in rows], dtype=np.int64)
        self._end = int(ends[-1])
        self._streams[_IDS].write(np.concatenate(rows).tobytes())
        self._streams[_ENDS].write(ends.tobytes())
        texts = zip(first) if second is None else zip(first, second, strict=True)
        self._streams[_DIGESTS].write(b"".join(row_digest(*text) for text in texts))
        if "token_type_ids" in encoded:
            types = np.concatenate([np.array(kinds, dtype=np.int8) for kinds in encoded["token_type_ids"]])  # fmt: skip
            if _TYPES not in self._streams:
                self._streams[_TYPES] = (self._folder / _TYPES).open("wb")
            self._streams[_TYPES].write(types.tobytes())

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


def _read_rows(folder: Path) -> Rows:
    ends = np.fromfile(folder / _ENDS, dtype=np.int64)
    digests = _mapped(folder / _DIGESTS, np.uint8).reshape(-1, DIGEST_BYTES)
    types = _mapped(folder / _TYPES, np.int8) if (folder / _TYPES).exists() else None
    return Rows(_mapped(folder / _IDS, np.int32), ends, digests, types)


def _mapped(file: Path, dtype: Any) -> NDArray[Any]:
    if not file.stat().st_size:  # no file of nothing can be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(file, dtype=dtype, mode="r")
