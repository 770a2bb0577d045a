"""Masked-LM teachers: who they are, how good each is at each language, and what they said."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from teacherzoo.errors import CorpusError, RecordError, SignalsError, TeacherError, TeacherzooError
from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from teacherzoo.corpora import Corpus, Document
    from teacherzoo.heads import SplitHead, split_head
    from teacherzoo.masking import Masking, TokenSpace
    from teacherzoo.nursery import Upbringing, Upbrought, raise_teacher
    from teacherzoo.rank import Ranking, rank
    from teacherzoo.record import record
    from teacherzoo.signals_read import SignalBatch, Signals
    from teacherzoo.stats import LanguageStats, SignalStats, stats
    from teacherzoo.teachers import Teacher, load_teacher
    from teacherzoo.verify import Verification, verify

__all__ = [
    "Corpus",
    "CorpusError",
    "Document",
    "LanguageStats",
    "Masking",
    "Ranking",
    "RecordError",
    "SignalBatch",
    "SignalStats",
    "Signals",
    "SignalsError",
    "SplitHead",
    "Teacher",
    "TeacherError",
    "TeacherzooError",
    "TokenSpace",
    "Upbringing",
    "Upbrought",
    "Verification",
    "__version__",
    "load_teacher",
    "raise_teacher",
    "rank",
    "record",
    "split_head",
    "stats",
    "verify",
]

__version__ = _version("teacherzoo")

# These need torch or take long to import.
_import_late(
    __name__,
    {
        "Corpus": "teacherzoo.corpora",
        "Document": "teacherzoo.corpora",
        "LanguageStats": "teacherzoo.stats",
        "Masking": "teacherzoo.masking",
        "Ranking": "teacherzoo.rank",
        "SignalBatch": "teacherzoo.signals_read",
        "SignalStats": "teacherzoo.stats",
        "Signals": "teacherzoo.signals_read",
        "SplitHead": "teacherzoo.heads",
        "Teacher": "teacherzoo.teachers",
        "TokenSpace": "teacherzoo.masking",
        "Upbringing": "teacherzoo.nursery",
        "Upbrought": "teacherzoo.nursery",
        "Verification": "teacherzoo.verify",
        "load_teacher": "teacherzoo.teachers",
        "raise_teacher": "teacherzoo.nursery",
        "rank": "teacherzoo.rank",
        "record": "teacherzoo.record",
        "split_head": "teacherzoo.heads",
        "stats": "teacherzoo.stats",
        "verify": "teacherzoo.verify",
    },
)
