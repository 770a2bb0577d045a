"""One reading of the corpora before the teacher is asked: are they sound, how much is there, where does each shard begin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import DIGEST_BYTES, Corpus, refuse_repeated_languages
from teacherzoo.text.words import WORD_RULE, has_later_signs

_TOLD_EVERY = 1000


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Some consecutive documents of a corpus that will be one Parquet file, and `digest_of_documents` of them."""

    file: str
    start: int
    documents: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """A corpus, named by its content and the rule that cuts it into words, and its shards."""

    corpus: Corpus
    digest: str
    documents: int
    bytes: int
    shards: tuple[ShardPlan, ...]


def plan_shards(
    corpora: Sequence[Corpus], *, shard_bytes: int, watch: ProgressCallback = no_progress
) -> list[CorpusPlan]:
    """Read every corpus once and cut it into shards of about `shard_bytes` of text.

    Shards depend on the text alone, so any process can take any of them, and a resumed run finds the same ones.

    Args:
        corpora: one for each language.
        shard_bytes: text in a shard.
        watch: told every so many documents how many were read.

    Raises:
        CorpusError: for text that cannot be read, for an empty corpus, or a language given twice.
    """
    refuse_repeated_languages(corpora)
    return [_plan_corpus(corpus, shard_bytes, watch) for corpus in corpora]


def digest_of_documents(digests: Iterable[bytes]) -> str:
    """Of some documents, by the digests that name them, in their order."""
    return hashlib.blake2b(b"".join(digests), digest_size=DIGEST_BYTES).hexdigest()


def _plan_corpus(corpus: Corpus, shard_bytes: int, watch: ProgressCallback) -> CorpusPlan:
    content = hashlib.blake2b(digest_size=DIGEST_BYTES)
    shards: list[ShardPlan] = []
    start = documents = size = total = 0
    digests: list[bytes] = []
    later_signs = False

    def close() -> None:
        name = f"{corpus.language}-{len(shards):05d}.parquet"
        shards.append(ShardPlan(name, start, documents - start, size, digest_of_documents(digests)))
        digests.clear()

    for document in corpus.documents():
        content.update(document.digest)
        later_signs = later_signs or has_later_signs(document.text)
        digests.append(document.digest)
        documents += 1
        if documents % _TOLD_EVERY == 0:
            watch(documents, 0, f"reading {corpus.language}")
        size += len(document.text.encode("utf-8", "surrogatepass"))
        if size >= shard_bytes:
            close()
            total += size
            start, size = documents, 0
    if documents > start:
        close()
    if later_signs:  # a recording in which whole lines were a word is of another text
        content.update(WORD_RULE.encode())
    return CorpusPlan(corpus, content.hexdigest(), documents, total + size, tuple(shards))
