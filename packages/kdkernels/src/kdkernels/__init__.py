"""Distillation losses from hidden states to a vocabulary, without the logits."""

from importlib.metadata import version as _version

__all__ = ["__version__"]

__version__ = _version("kdkernels")
