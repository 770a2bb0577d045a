"""Masked-LM teachers: who they are, how good each is at each language, and what they said."""

from importlib.metadata import version as _version

__all__ = ["__version__"]

__version__ = _version("teacherzoo")
