"""A small bilingual model out of a big multilingual one."""

from importlib.metadata import version as _version

__all__ = ["__version__"]

__version__ = _version("bistil")
