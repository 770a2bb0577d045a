"""Lines of text as rows of token ids, one a sentence, made once: for sentence encoders and classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from bistil.errors import ExtractError
from bistil.text.batches import Schedule
from bistil.text.pairing import pairs_of
from bistil.text.row_batches import RowBatches, RowGroup
from bistil.text.row_files import Rows, RowWriter, read_rows
from teacherzoo import Corpus
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_text
from teacherzoo.errors import EmptyCorpusError
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import Part

if TYPE_CHECKING:
    from teacherzoo import Vectors

_TOGETHER = 2000  # rows tokenized in one call
_HELD_OUT_BATCHES = 8
_PAIRS = " (pairs)"  # behind the language, in the name of a group of translation pairs

Form = Literal["lines", "pairs"]


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
        return self._batches(self.groups, count, size=self.rows_in_batch, seed=self._seed)

    def held_out(self) -> dict[str, list[RowBatches]]:
        """Per language a few batches of each group that is not trained on, or one smaller batch of all; languages without are absent."""
        held_out: dict[str, list[RowBatches]] = {}
        for name, group in self._groups("held_out").items():
            size = min(self.rows_in_batch, len(group.rows))
            count = min(_HELD_OUT_BATCHES, len(group.rows) // size)
            batches = self._batches({name: group}, count, size=size, seed=0)
            held_out.setdefault(group.language, []).append(batches)
        return held_out

    def _batches(
        self, groups: Mapping[str, RowGroup], count: int, *, size: int, seed: int
    ) -> RowBatches:
        slots = Schedule(
            {name: len(group.rows) for name, group in groups.items()},
            batches=count,
            size=size,
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
            writers = [RowWriter(work / MADE / str(side)) for side in range(sides)]
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
        return [read_rows(made / str(side)) for side in range(2 if translations else 1)]

    def _texts(self, language: str, part: Part, *, translations: bool) -> Iterator[tuple[str, ...]]:
        if translations or self._form == "pairs":
            files = (self._parallel if translations else self._files)[language]
            yield from pairs_of(files, part=part, held_out_share=self._held_out_share)
            return
        corpus = Corpus(language, tuple(self._files[language]), part=part, held_out_share=self._held_out_share)  # fmt: skip
        try:
            for document in corpus.documents():
                yield (document.text,)
        except EmptyCorpusError:  # a small corpus may hold nothing out
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
