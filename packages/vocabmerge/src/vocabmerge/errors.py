"""The one kind of error that a caller of vocabmerge has to expect."""


class VocabularyError(ValueError):
    """A tokenizer, corpus, map or request that cannot be worked with; the message names what and the next step."""
