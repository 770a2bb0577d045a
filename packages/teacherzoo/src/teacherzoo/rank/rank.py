"""Which teacher for which language: every candidate measured on the same held-out text."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.teachers import Teacher, load_teacher
from teacherzoo.errors import CorpusError, RecordError, TeacherError
from teacherzoo.processes import own_device
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.rank.bits_per_byte import BitsPerByte, bits_per_byte
from teacherzoo.text.corpora import Corpus

_SHORTEST = 8  # tokens in a row


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One teacher on one language's text.

    Attributes:
        language: of the text.
        teacher: as the user named it.
        bits_per_byte: over the words that the teacher can spell.
        charged_bits_per_byte: over all words, those it cannot spell charged with 8 bits a byte; the ranking goes by this.
        pieces_per_word: fertility.
        left_out: share of words with an unknown piece (or too long, or joined to another by a piece).
        words: measured on.
        tokens_per_second: that the teacher read.
        peak_bytes: of memory beyond what was held before the teacher was loaded; None where the system cannot tell.
    """

    language: str
    teacher: str
    bits_per_byte: float
    charged_bits_per_byte: float
    pieces_per_word: float
    left_out: float
    words: int
    tokens_per_second: float
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All ratings, best first within each language, and what follows from them."""

    ratings: tuple[Rating, ...]

    @property
    def assignment(self) -> dict[str, str]:
        """Language to the name of its best teacher."""
        best: dict[str, str] = {}
        for rating in self.ratings:
            best.setdefault(rating.language, rating.teacher)
        return best

    @property
    def teachers(self) -> list[dict[str, object]]:
        """The assignment as the `teachers` of a mergedistill recipe: each teacher with the languages it teaches."""
        chosen: dict[str, list[str]] = {}
        for language, teacher in self.assignment.items():
            chosen.setdefault(teacher, []).append(language)
        return [
            {"teacher": teacher, "languages": languages} for teacher, languages in chosen.items()
        ]


def rank(
    teachers: Sequence[str | Path],
    corpora: Sequence[Corpus],
    *,
    documents: int = 200,
    rate: float = 0.15,
    max_length: int = 256,
    watch: ProgressCallback = no_progress,
) -> Ranking:
    """Measure every teacher on every language and rank them by bits per byte.

    Each word of a text is hidden once, with all its pieces, and costs -log2 p(pieces | the rest of its block): the masked
    pseudo-likelihood of Salazar et al. (2020), word by word as in Kauf and Ivanova (2023). Summed over the words and divided
    by their UTF-8 bytes it does not depend on the tokenizer; `teacherzoo.rank.bits_per_byte` has the definition.

    Args:
        teachers: catalogue names, Hub names or folders; one is in memory at a time.
        corpora: one for each language; their `part` says what is read, and held-out text is fair to teachers pretrained
            on the rest.
        documents: most documents of each language; a corpus of a lower `limit` gives no more than that.
        rate: share of the words hidden at a time.
        max_length: tokens in a row.
        watch: told (done, total, what).

    Returns:
        The ratings and the recommended assignment.

    Raises:
        RecordError: for a teacher or a language given twice, and for rows too short to be told anything from.
        CorpusError: for text that cannot be read.
        TeacherError: for a model that cannot teach, or whose logits are not finite.

    Example:
        With a masked LM in the folder `teacher`, and text in `en.txt`:

        >>> ranking = rank(["teacher"], [Corpus("en", "en.txt")], documents=20)
        >>> ranking.assignment
        {'en': 'teacher'}
        >>> ranking.ratings[0].bits_per_byte > 0
        True
    """
    if max_length < _SHORTEST:
        raise RecordError(f"max_length must be at least {_SHORTEST} tokens, got {max_length}.")
    names = [str(teacher) for teacher in teachers]
    languages = [corpus.language for corpus in corpora]
    for kind, given in (("teacher", names), ("language", languages)):
        for name in given:
            if given.count(name) > 1:
                raise RecordError(f"the {kind} {name!r} is given twice; once is enough.")
    texts = {}
    for number, corpus in enumerate(corpora):
        watch(number, len(corpora), "reading")
        most = documents if corpus.limit is None else min(documents, corpus.limit)
        texts[corpus.language] = [
            document.text for document in replace(corpus, limit=most).documents()
        ]
    ratings = []
    device = own_device()
    # What the libraries take when they are first used is no teacher's need; on a GPU they take nothing that is counted.
    for name in names[:1] if device.type == "cpu" else ():
        load_teacher(find_teacher(name))
    for number, name in enumerate(names):
        with _peak_memory(device) as peak:
            teacher = load_teacher(find_teacher(name))
            teacher.model.to(device)
            for place, (language, sample) in enumerate(texts.items()):
                watch(number * len(texts) + place, len(names) * len(texts), f"{name} on {language}")
                ratings.append(_rate(teacher, name, language, sample, rate, max_length, peak))
            del teacher
    watch(len(names) * len(texts), len(names) * len(texts), "ranked")
    order = {language: place for place, language in enumerate(languages)}
    ratings.sort(key=lambda rating: (order[rating.language], rating.charged_bits_per_byte))
    return Ranking(ratings=tuple(ratings))


def _rate(
    teacher: Teacher,
    name: str,
    language: str,
    documents: Sequence[str],
    rate: float,
    max_length: int,
    peak: Callable[[], int | None],
) -> Rating:
    start = time.perf_counter()
    try:
        bits: BitsPerByte = bits_per_byte(teacher, documents, rate=rate, max_length=max_length)
    except CorpusError as error:
        raise CorpusError(f"{language}: {error}") from error
    if not math.isfinite(bits.charged):
        raise TeacherError(
            f"{name}: its logits are not finite (NaN or infinite) on {language}; its weights are damaged, so leave it out."
        )
    seconds = time.perf_counter() - start
    return Rating(
        language=language,
        teacher=name,
        bits_per_byte=bits.value,
        charged_bits_per_byte=bits.charged,
        pieces_per_word=bits.pieces / bits.words,
        left_out=bits.left_out_words / bits.words,
        words=bits.words,
        tokens_per_second=bits.tokens_read / seconds,
        peak_bytes=peak(),
    )


@contextlib.contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Inside, a function that tells the peak of the device's memory since the beginning."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device)) - before
        return
    held = _resident("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    yield lambda: None if held is None else max(0, (_resident("VmHWM") or 0) - held)


def _resident(key: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None
