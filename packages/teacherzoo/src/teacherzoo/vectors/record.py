"""Recording: every line's vector under every prompt, in shards of Parquet, by the encoder's own pooling."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from teacherzoo.cache import MADE, made_once
from teacherzoo.digests import digest_of_inputs
from teacherzoo.encoders.teachers import teacher_folder
from teacherzoo.errors import RecordError, TeacherError
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import Corpus, document_digest, refuse_repeated_languages
from teacherzoo.vectors.encoder import open_sentence_encoder
from teacherzoo.vectors.read import MANIFEST, PRECISIONS, Vectors, shard_name, write_shard

_ROWS = 4096  # of a shard
_SHARDS = "shards"  # in the work folder, where a killed run's are found again


def record_vectors(
    model: str | Path,
    corpora: Sequence[Corpus],
    out: Path,
    *,
    prompts: Sequence[str] = ("",),
    length: int | None = None,
    precision: str = "float16",
    batch: int = 64,
    watch: ProgressCallback = no_progress,
) -> Vectors:
    """Record a sentence encoder's vectors: v = modules(encoder(prompt + line)), as `sentence_transformers` computes them.

    Extraction by terms on vectors alone (Reimers and Gurevych 2020) asks the teacher the same of the same lines in every pass;
    recorded, it need not run. A vector is found by the content of prompt and line. The same call goes on where a killed one
    stopped, shard by shard.

    Args:
        model: a sentence-transformers folder, or its name on the Hub.
        corpora: the text, a line a document.
        out: the folder to write; it must not exist.
        prompts: put in front of every line, one after the other.
        length: the most tokens of a line; the model's own limit unless given.
        precision: "float16" or "float32" on disk.
        batch: lines in a forward pass.
        watch: told (done, total, what).

    Returns:
        The vectors, opened.

    Raises:
        RecordError: for options that make no sense, and a folder in the way or made of other inputs.
        TeacherError: without sentence-transformers, where it cannot open the model, and for one that reads lines of any length.
        CorpusError: for text that cannot be read, and a language given twice.

    Example:
        >>> vectors = record_vectors("encoder", [Corpus("en", "en.txt")], Path("vectors"))  # doctest: +SKIP
        >>> vectors.dimension  # doctest: +SKIP
        384
    """
    _check(corpora, prompts, length, precision, batch)
    folder = teacher_folder(model)
    inputs = {
        **digest_of_inputs(corpora={corpus.language: corpus for corpus in corpora}, models={"teacher": folder}),
        "prompts": list(prompts),
        "length": length,
        "precision": precision,
    }  # fmt: skip

    def make(work: Path) -> None:
        encoder = open_sentence_encoder(folder)
        shards = work / _SHARDS
        shards.mkdir(exist_ok=True)
        limit = encoder.max_seq_length
        if limit == math.inf or (limit is None and length is None):
            raise TeacherError(
                f"{model}: it states no most tokens of a line, as static embeddings do not; choose an encoder of transformers."
            )
        if length is not None:
            encoder.max_seq_length = min(length, limit or length)
        counts = []
        for number, (prompt, lines) in enumerate(_shards(corpora, prompts)):
            counts.append(len(lines))
            shard = shards / shard_name(number)
            if not shard.exists():
                vectors = encoder.encode(lines, prompt=prompt, batch_size=batch, show_progress_bar=False)  # fmt: skip
                if not np.isfinite(vectors).all():
                    raise TeacherError(
                        f"{model}: some of its vectors are not finite; choose another model."
                    )
                with np.errstate(over="ignore"):
                    rounded = vectors.astype(precision)
                if not np.isfinite(rounded).all():
                    raise TeacherError(
                        f"{model}: some of its vectors are not finite in {precision}; record them in float32."
                    )
                digests = [document_digest(prompt + line) for line in lines]
                write_shard(shard, digests, rounded)
            watch(sum(counts), 0, "recording vectors")
        manifest = {
            "what": "sentence vectors recorded by teacherzoo",
            "format": 1,
            "teacher": inputs["models"]["teacher"],
            "prompts": list(prompts),
            "length": int(encoder.max_seq_length),
            "precision": precision,
            "shards": counts,
        }
        (shards / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        shards.replace(work / MADE)

    return Vectors(made_once(Path(out), inputs, make, refuse=RecordError, watch=watch))


def _check(
    corpora: Sequence[Corpus],
    prompts: Sequence[str],
    length: int | None,
    precision: str,
    batch: int,
) -> None:
    if not corpora:
        raise RecordError("Expected at least one text, got none; give a corpus.")
    refuse_repeated_languages(corpora)
    if not prompts or len({*prompts}) < len(prompts):
        raise RecordError(f"Expected prompts, each once, got {list(prompts)!r}.")
    if precision not in PRECISIONS:
        raise RecordError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    for name, value in (("length", length), ("batch", batch)):
        if value is not None and value < 1:
            raise RecordError(f"{name} must be at least 1, got {value!r}.")


def _shards(corpora: Sequence[Corpus], prompts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Prompt and lines of each shard, in the order of the text."""
    for corpus in corpora:
        for prompt in prompts:
            lines = (document.text for document in corpus.documents())
            while some := list(islice(lines, _ROWS)):
                yield prompt, some
