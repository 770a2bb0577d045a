"""Masked-LM teachers: who they are, how good each is at each language, and what they said."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from teacherzoo.errors import CorpusError, RecordError, SignalsError, TeacherError, TeacherzooError
from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from teacherzoo.encoders.heads import SplitHead, split_head
    from teacherzoo.encoders.teachers import Teacher, load_teacher
    from teacherzoo.pretrain.config import (
        ContinuedPretraining,
        PretrainedTeacher,
        PretrainingConfig,
    )
    from teacherzoo.pretrain.continued import continue_pretraining
    from teacherzoo.pretrain.pretrain import pretrain_teacher
    from teacherzoo.rank.rank import Ranking, rank
    from teacherzoo.signals.read import SignalBatch, Signals
    from teacherzoo.signals.record import record
    from teacherzoo.signals.stats import LanguageStats, SignalStats, stats
    from teacherzoo.signals.verify import Verification, verify
    from teacherzoo.signals.verify_samples import SampleVerification, verify_samples
    from teacherzoo.text.corpora import Corpus, Document
    from teacherzoo.text.masking import Masking, TokenSpace
    from teacherzoo.vectors.read import Vectors
    from teacherzoo.vectors.record import record_vectors

__all__ = [
    "ContinuedPretraining",
    "Corpus",
    "CorpusError",
    "Document",
    "LanguageStats",
    "Masking",
    "PretrainedTeacher",
    "PretrainingConfig",
    "Ranking",
    "RecordError",
    "SampleVerification",
    "SignalBatch",
    "SignalStats",
    "Signals",
    "SignalsError",
    "SplitHead",
    "Teacher",
    "TeacherError",
    "TeacherzooError",
    "TokenSpace",
    "Vectors",
    "Verification",
    "__version__",
    "continue_pretraining",
    "load_teacher",
    "pretrain_teacher",
    "rank",
    "record",
    "record_vectors",
    "split_head",
    "stats",
    "verify",
    "verify_samples",
]

__version__ = _version("teacherzoo")

# These need torch or take long to import.
_import_late(
    __name__,
    {
        "Corpus": "teacherzoo.text.corpora",
        "Document": "teacherzoo.text.corpora",
        "LanguageStats": "teacherzoo.signals.stats",
        "Masking": "teacherzoo.text.masking",
        "Ranking": "teacherzoo.rank.rank",
        "SampleVerification": "teacherzoo.signals.verify_samples",
        "SignalBatch": "teacherzoo.signals.read",
        "SignalStats": "teacherzoo.signals.stats",
        "Signals": "teacherzoo.signals.read",
        "SplitHead": "teacherzoo.encoders.heads",
        "Teacher": "teacherzoo.encoders.teachers",
        "TokenSpace": "teacherzoo.text.masking",
        "ContinuedPretraining": "teacherzoo.pretrain.config",
        "PretrainingConfig": "teacherzoo.pretrain.config",
        "PretrainedTeacher": "teacherzoo.pretrain.config",
        "Vectors": "teacherzoo.vectors.read",
        "Verification": "teacherzoo.signals.verify",
        "continue_pretraining": "teacherzoo.pretrain.continued",
        "load_teacher": "teacherzoo.encoders.teachers",
        "pretrain_teacher": "teacherzoo.pretrain.pretrain",
        "rank": "teacherzoo.rank.rank",
        "record": "teacherzoo.signals.record",
        "record_vectors": "teacherzoo.vectors.record",
        "split_head": "teacherzoo.encoders.heads",
        "stats": "teacherzoo.signals.stats",
        "verify": "teacherzoo.signals.verify",
        "verify_samples": "teacherzoo.signals.verify_samples",
    },
)
