"""What a folder of signals looks like: the columns of its Parquet shards, and what `signals.json` declares.

Two samplers say what is kept of a distribution: `topk` its k likeliest ids, `random` ids that were drawn from it.

One row is one block as one draw of masks showed it to the teacher. Lists that hold something per masked position run in
the order of `positions`, lists that hold k things per position are flat.

| column | type | meaning |
|---|---|---|
| `language` | string | tag of the corpus |
| `document` | 16 bytes | BLAKE2b of the document's UTF-8 bytes |
| `part` | int32 | which block of the document |
| `draw` | int32 | which draw of masks |
| `loss` | float32 | mean of -log p(gold token) over the masked positions |
| `token_ids` | list of uint32 | the block in the teacher's ids, NOT masked; the masked input follows from seed and digest |
| `positions` | list of uint32 | masked positions, ascending; the gold ids are `token_ids` there |
| `words` | list of uint32 | the word of the document each masked position belongs to |
| `topk_ids` | list of uint32 | k ids per position, ascending |
| `topk_codes` | list of uint8 | k log-probabilities per position, one byte each |
| `scale` | list of float32 | per position: log p(id) = offset - scale * code^1.5 |
| `log_kept` | list of float32 | per position: log of the probability of the k ids together; fixes the offset, and the tail is 1 - exp |
| `log_partition` | list of float32 | per position and declared temperature T: log of the sum over the vocabulary of p^(1/T) |

The sampler `random` has, in place of the last five:

| column | type | meaning |
|---|---|---|
| `sampled_ids` | list of uint32 | the ids drawn at each position, every one once, ascending in their position |
| `sampled_counts` | list of uint8 | how often each was drawn; the counts of a position sum to the declared number of draws, which tells \
where the next one begins |

Where `word_logprobs` was asked for there is one more column:

| column | type | meaning |
|---|---|---|
| `word_logprobs` | list of float32 | per masked word: Σ log p(gold piece) over its pieces, all of them masked; NaN where these do not cover the word alone |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from teacherzoo.errors import SignalsError
from teacherzoo.text.masking import Masking, TokenSpace
from teacherzoo.text.words import FIRST_WORD_RULE, WORD_RULE

if TYPE_CHECKING:
    from teacherzoo.encoders.inference import Precision

FORMAT = "teacherzoo signals"
VERSION = 2
_FIRST_VERSION = 1  # knew the sampler `topk` alone, and called `mask_draws` draws
MANIFEST = "signals.json"
PARTIAL = ".partial"
METADATA_KEY = b"teacherzoo"


def _field(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _list_field(name: str, kind: pa.DataType) -> pa.Field:
    return _field(name, pa.list_(_field("element", kind)))


Sampler = Literal["topk", "random"]
WORD_LOGPROBS = _list_field("word_logprobs", pa.float32())

# Nothing is ever null: said so, a shard is read a fifth faster.
_TEXT_FIELDS = [
    _field("language", pa.string()),
    _field("document", pa.binary(16)),
    _field("part", pa.int32()),
    _field("draw", pa.int32()),
    _field("loss", pa.float32()),
    _list_field("token_ids", pa.uint32()),
    _list_field("positions", pa.uint32()),
    _list_field("words", pa.uint32()),
]
_TOPK_SCHEMA = pa.schema(
    [
        *_TEXT_FIELDS,
        _list_field("topk_ids", pa.uint32()),
        _list_field("topk_codes", pa.uint8()),
        _list_field("scale", pa.float32()),
        _list_field("log_kept", pa.float32()),
        _list_field("log_partition", pa.float32()),
    ]
)
_RANDOM_SCHEMA = pa.schema(
    [
        *_TEXT_FIELDS,
        _list_field("sampled_ids", pa.uint32()),
        _list_field("sampled_counts", pa.uint8()),
    ]
)
SCHEMAS: dict[Sampler, pa.Schema] = {"topk": _TOPK_SCHEMA, "random": _RANDOM_SCHEMA}


@dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """What every shard of a recording has in common.

    Attributes:
        teacher: the name it was called by; not compared, for folders move.
        weights: digest of the teacher's weights and configuration.
        tokenizer: digest of its tokenizer.
        vocabulary_size: ids the teacher distributes its probability over.
        sampler: `topk` keeps the k likeliest ids with the mass of all others, `random` ids drawn from the distribution.
        k: ids kept per position, by `topk`.
        draws: ids drawn per position, by `random`.
        temperatures: for which log partitions are kept by `topk`; of `random` the one at which was drawn, none for 1.
        masking: policy, rate and seed.
        space: the ids masking knows.
        mask_draws: masks drawn per block.
        block_length: most tokens in a block.
        precision: of the encoder: `float32` or `bfloat16`.
        token_budget: most tokens in a batch; it decides which blocks meet in a batch, and so at most the last bits. Not compared,
            so that a recording may go on with another: each shard states its own, `signals.json` the least of them.
        shard_bytes: text in a shard.
        word_logprobs: whether the log-probability of each masked word is kept.
        word_rule: by which text is cut into the words that `words` numbers. Recordings that do not name theirs are assumed to be by
            that of 2026-11; where it cuts a text otherwise than older ones, the corpus has another digest than by them.
        whole_word_rule: where it is, the rule by which tokens cover a word alone; None in recordings by the first one.
    """

    teacher: str
    weights: str
    tokenizer: str
    vocabulary_size: int
    sampler: Sampler
    k: int | None
    draws: int | None
    temperatures: tuple[float, ...]
    masking: Masking
    space: TokenSpace
    mask_draws: int
    block_length: int
    precision: Precision
    token_budget: int
    shard_bytes: int
    word_rule: str = WORD_RULE
    word_logprobs: bool = False
    whole_word_rule: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns of its shards."""
        schema = SCHEMAS[self.sampler]
        return schema.append(WORD_LOGPROBS) if self.word_logprobs else schema

    @property
    def width(self) -> int:
        """Places for ids that a reader finds at each position."""
        width = self.k if self.sampler == "topk" else self.draws
        assert width is not None
        return width

    @property
    def drawn_at(self) -> float:
        """The temperature of the distribution that ids were drawn from."""
        return self.temperatures[0] if self.sampler == "random" and self.temperatures else 1.0

    def to_json(self) -> dict[str, Any]:
        """As plain values; what was not asked for is not named, so that recordings without it stay the same bytes."""
        values = asdict(self) | {
            "temperatures": list(self.temperatures),
            "masking": self.masking.to_json(),
            "space": self.space.to_json(),
        }
        if not self.word_logprobs:
            del values["word_logprobs"], values["whole_word_rule"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RecordingSettings:
        """The inverse of `to_json`; also of that of version 1."""
        if "sampler" not in values:
            first_version = {"sampler": "topk", "draws": None, "mask_draws": values["draws"]}
            values = {**values, **first_version}
        return cls(
            **{
                "word_rule": FIRST_WORD_RULE,
                **values,
                "temperatures": tuple(values["temperatures"]),
                "masking": Masking(**values["masking"]),
                "space": TokenSpace.from_json(values["space"]),
            }
        )

    def refuse_others(self, wanted: RecordingSettings, *, where: Path) -> None:
        """Raise by name for the first setting in which `wanted` differs from what is recorded.

        Raises:
            SignalsError: naming it, with both values.
        """
        for field in fields(self):
            recorded, now = getattr(self, field.name), getattr(wanted, field.name)
            if field.name not in _NOT_COMPARED and recorded != now:
                raise SignalsError(
                    f"{where} was recorded with {_SETTING_NAMES.get(field.name, field.name)} {_shown(recorded)}, "
                    f"and now {_shown(now)} is asked for; record into another folder."
                )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a recording."""

    file: str
    language: str
    rows: int
    positions: int
    bytes: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class CorpusRecord:
    """What of a language was recorded."""

    digest: str
    documents: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `signals.json` declares."""

    settings: RecordingSettings
    corpora: dict[str, CorpusRecord]
    shards: tuple[Shard, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "terms": self.settings.to_json(),
            "corpora": {language: asdict(corpus) for language, corpus in self.corpora.items()},
            "shards": [asdict(shard) for shard in self.shards],
        }


def read_manifest(folder: Path) -> Manifest:
    """Read `signals.json`.

    Raises:
        SignalsError: where it is missing, unreadable, or of another format or version.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise SignalsError(f"{folder}: there is no such folder; name one that was recorded into.")
    if not path.is_file():
        state = (
            "unfinished: run the same recording again to finish it"
            if any(folder.glob("*.parquet"))
            else "no signals: record into it first"
        )
        raise SignalsError(f"{folder} has no {MANIFEST}, so it holds {state}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        check_version(values, path)
        return Manifest(
            settings=RecordingSettings.from_json(values["terms"]),
            corpora={tag: CorpusRecord(**corpus) for tag, corpus in values["corpora"].items()},
            shards=tuple(Shard(**shard) for shard in values["shards"]),
        )
    except (UnicodeDecodeError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise SignalsError(f"{path} is damaged ({error}); restore it or record again.") from error


def check_version(values: Mapping[str, Any], path: Path) -> None:
    """Raise unless `values` declares this format and version.

    Raises:
        SignalsError: naming what was found.
    """
    declared = (values.get("format"), values.get("version"))
    if declared not in ((FORMAT, VERSION), (FORMAT, _FIRST_VERSION)):
        raise SignalsError(
            f"{path}: expected {FORMAT!r} version {VERSION}, got {declared[0]!r} version {declared[1]!r}; "
            "open it with the teacherzoo that wrote it."
        )


_NOT_COMPARED = {"teacher", "token_budget"}
_SETTING_NAMES = {
    "weights": "teacher weights",
    "tokenizer": "the tokenizer",
    "masking": "the masking",
    "space": "the special tokens",
    "word_rule": "the rule for words",
    "word_logprobs": "log-probabilities of words",
    "whole_word_rule": "the rule for words that tokens cover alone",
}


def _shown(value: object) -> str:
    if isinstance(value, Masking):
        return str(value.to_json())
    return repr(value)
