"""What can be wrong with a teacher, a corpus or recorded signals; each message is one sentence with the next step.

And a lack of memory, told from other errors by what torch says.
"""


class TeacherzooError(ValueError):
    """Whatever teacherzoo refuses; catch this one to catch them all."""


class TeacherError(TeacherzooError):
    """A model or tokenizer that cannot teach: no masked-LM head, no mask token, NaN logits."""


class CorpusError(TeacherzooError):
    """Text that cannot be read: undecodable bytes, a missing column, an empty corpus."""


class EmptyCorpusError(CorpusError):
    """Text that can be read and has no document in the wanted part, as where little text holds nothing out."""


class SignalsError(TeacherzooError):
    """Recorded signals that are damaged, unfinished, or of another teacher, corpus or k."""


class RecordError(TeacherzooError):
    """A recording that cannot start or go on: bad options, a full disk, a missing engine."""


class DivergenceError(TeacherzooError):
    """A training whose loss or weights are no longer finite."""


class CacheError(TeacherzooError):
    """A place where another run works, or that cannot be a folder."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not allocate: on a GPU torch says so by the class, on a CPU in words.

    Example:
        >>> is_lack_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which need not be imported for it
        or "allocate memory" in str(error)
    )
