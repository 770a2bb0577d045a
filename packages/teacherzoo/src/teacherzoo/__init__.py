"""Masked-LM teachers: who they are, how good each is at each language, and what they said."""

from importlib.metadata import version as _version

from teacherzoo.corpora import Corpus, Document
from teacherzoo.errors import CorpusError, RecordError, SignalsError, TeacherError, TeacherzooError
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
