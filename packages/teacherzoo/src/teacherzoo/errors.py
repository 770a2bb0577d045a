"""What can be wrong with a teacher, a corpus or recorded signals; each message is one sentence with the next step."""


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


class CacheError(TeacherzooError):
    """A place where another run works, or that cannot be a folder."""
