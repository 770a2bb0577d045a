"""True unions and exact trims of Hugging Face tokenizers, and the embeddings that go with them."""

from importlib.metadata import version as _version

__all__ = ["__version__"]

__version__ = _version("vocabmerge")
