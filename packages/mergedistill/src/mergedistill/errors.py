"""What mergedistill refuses; each message is one sentence with the next step."""


class MergedistillError(ValueError):
    """Whatever mergedistill refuses; catch this one to catch them all."""


class RecipeError(MergedistillError):
    """A recipe that cannot be followed, naming the file, the key, what was expected and what stands there."""


class StageError(MergedistillError):
    """A stage that does not exist or cannot run."""


class FuseError(MergedistillError):
    """Models that cannot be merged in weight space, or options under which nothing sensible would come of it."""
