"""What xeval says when it is given something it cannot judge."""


class XevalError(ValueError):
    """Bad input, named in one sentence: where, what was expected, what was found, the next step."""
