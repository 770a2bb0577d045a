"""The judge: fine-tune a model on one language, score it on every other, with intervals and costs."""

from importlib.metadata import version as _version

__all__ = ["__version__"]

__version__ = _version("xeval")
