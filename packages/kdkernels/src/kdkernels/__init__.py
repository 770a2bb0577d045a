"""Distillation losses from hidden states to a vocabulary, without the logits."""

from importlib.metadata import version as _version

from kdkernels.checks import KernelArgumentError

__all__ = [
    "KernelArgumentError",
    "__version__",
]

__version__ = _version("kdkernels")
