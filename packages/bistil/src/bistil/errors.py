"""What bistil refuses; each message is one sentence with the next step."""


class BistilError(ValueError):
    """Whatever bistil refuses; catch this one to catch them all."""


class ModelError(BistilError):
    """A model that cannot teach or be taught as asked: its family, its layers, its heads, its files."""


class ExtractError(BistilError):
    """An extraction that cannot start or go on: languages, corpora, options, a folder in the way."""


class ExportError(BistilError):
    """An export that is refused: a missing library, a model of another kind, outputs that differ."""


class SparseError(BistilError):
    """A sparse fine-tuning that does not fit: another base model, another vocabulary, a damaged file."""


class AdaptError(BistilError):
    """An adaptation to a task that cannot start or go on: teacher, labels, data, options."""


class MakeError(BistilError):
    """What `make` cannot make: a kind of model, languages, text, sizes that do not fit."""


class FitError(BistilError):
    """What `fit` cannot fit: budgets, languages, tasks, parts that leave nothing to choose from."""
