"""A folder of signals as a whole: what may be added to it, and when it is complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from teacherzoo.encoders.teachers import files_digest
from teacherzoo.errors import RecordError, SignalsError
from teacherzoo.signals.layout import (
    MANIFEST,
    METADATA_KEY,
    PARTIAL,
    CorpusRecord,
    Manifest,
    RecordingSettings,
    Shard,
    check_version,
    read_manifest,
)
from teacherzoo.signals.shard_plan import CorpusPlan
from teacherzoo.signals.write import write_whole


def refuse_files(folder: Path) -> None:
    """Refuse a place for signals that is a file, or lies below one, before anything is spent.

    Raises:
        RecordError: naming the file.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RecordError(f"{folder} is to be a folder, but {there} is a file; choose another.")


def refuse_other_recordings(
    folder: Path, settings: RecordingSettings, plans: Sequence[CorpusPlan]
) -> None:
    """Raise unless everything in `folder` was recorded under the same settings, each language from the same text.

    Raises:
        SignalsError: naming what differs, or a damaged shard.
    """
    digests = {plan.corpus.language: plan.digest for plan in plans}
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        manifest.settings.refuse_others(settings, where=folder)
        for language, corpus in manifest.corpora.items():
            _refuse_other_text(folder, language, corpus.digest, digests)
    for path in sorted(folder.glob("*.parquet")):
        inside = read_shard_metadata(path)
        RecordingSettings.from_json(inside["terms"]).refuse_others(settings, where=path)
        _refuse_other_text(path, inside["language"], inside["corpus"], digests)


def finish_folder(folder: Path, settings: RecordingSettings, plans: Sequence[CorpusPlan]) -> None:
    """Write `signals.json`, the last file of a recording, from shards that are all there and whole.

    Raises:
        SignalsError: for shards that no one asked for and no one finished, and for damaged ones.
        RecordError: where a language gave the teacher nothing to say.
    """
    before = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    known = {shard.file: shard for shard in before.shards} if before else {}
    corpora = dict(before.corpora) if before else {}
    planned = {shard.file for plan in plans for shard in plan.shards}
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in planned and path.name not in known:
            language = read_shard_metadata(path)["language"]
            raise SignalsError(
                f"{path} is part of a recording of {language!r} that was never finished; record {language!r} too, "
                f"or delete {language}-[0-9]*.parquet."
            )
    since = (folder / MANIFEST).stat().st_mtime_ns if before else 0
    shards = [
        _describe(folder / file, known.get(file), since) for file in sorted(planned | known.keys())
    ]
    for plan in plans:
        language = plan.corpus.language
        _refuse_silence(folder, plan, [s for s in shards if s.language == language])
        corpora[language] = CorpusRecord(
            digest=plan.digest, documents=plan.documents, bytes=plan.bytes
        )
    terms = [read_shard_metadata(folder / shard.file)["terms"] for shard in shards]
    settings = replace(
        settings, token_budget=min(shard_terms["token_budget"] for shard_terms in terms)
    )
    manifest = Manifest(settings=settings, corpora=corpora, shards=tuple(shards))
    content = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    write_whole(folder / MANIFEST, content.encode())
    for leftover in folder.glob(f"*{PARTIAL}"):
        leftover.unlink()


def read_shard_metadata(path: Path) -> dict[str, Any]:
    """What a shard says of itself.

    Raises:
        SignalsError: where it is no shard of signals, or damaged.
    """
    try:
        metadata = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    except (OSError, pa.ArrowException) as error:
        raise SignalsError(
            f"{path} is damaged and no Parquet file any more; delete it and record again."
        ) from error
    if metadata is None:
        raise SignalsError(f"{path} is a Parquet file but no signals; move it elsewhere.")
    inside: dict[str, Any] = json.loads(metadata)
    check_version(inside, path)
    return inside


def _describe(path: Path, known: Shard | None, since: int) -> Shard:
    """The manifest's entry of a shard; its pages are verified unless an earlier manifest, written `since`, vouches for it.

    It does not for a file that was written later with other bytes: another machine, thread count or library records the same
    shard again with other last bits.
    """
    if not path.is_file():
        raise SignalsError(f"{path} has vanished; run the same recording again.")
    if known is not None and (
        (path.stat().st_mtime_ns <= since and path.stat().st_size == known.bytes)
        or files_digest([path]) == known.checksum
    ):
        return known
    inside = read_shard_metadata(path)
    try:
        pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise SignalsError(f"{path} is damaged; delete it and record again.") from error
    return Shard(
        file=path.name,
        language=inside["language"],
        rows=inside["rows"],
        positions=inside["positions"],
        bytes=path.stat().st_size,
        checksum=files_digest([path]),
    )


def _refuse_silence(folder: Path, plan: CorpusPlan, shards: Sequence[Shard]) -> None:
    if any(shard.rows for shard in shards):
        return
    for shard in shards:
        (folder / shard.file).unlink()
    raise RecordError(
        f"{plan.corpus.language}: nothing could be masked in {plan.documents} {'document' if plan.documents == 1 else 'documents'}, for the teacher's "
        "tokenizer makes only special and unknown tokens of it; choose a teacher that knows the script."
    )


def _refuse_other_text(where: Path, language: str, digest: str, asked: dict[str, str]) -> None:
    if asked.get(language, digest) != digest:
        raise SignalsError(
            f"{where} was recorded from another corpus of {language!r}, or by an older rule for words of its script (digest {digest}, "
            f"now {asked[language]}); record into another folder."
        )
