"""True unions and exact trims of Hugging Face tokenizers, and the embeddings that go with them."""

from importlib.metadata import version as _version

from vocabmerge.corpora import read_corpus
from vocabmerge.count import count_pieces
from vocabmerge.errors import VocabularyError
from vocabmerge.maps import VocabularyMap, identity_map, load_map, map_of_ids, map_of_lists
from vocabmerge.reading import read_vocabulary
from vocabmerge.rewrite import rewrite_tokenizer
from vocabmerge.vocabulary import (
    Piece,
    Vocabulary,
    open_tokenizer,
    parse_vocabulary,
    tokenizer_digest,
)

__all__ = [
    "Piece",
    "Vocabulary",
    "VocabularyError",
    "VocabularyMap",
    "__version__",
    "count_pieces",
    "identity_map",
    "load_map",
    "map_of_ids",
    "map_of_lists",
    "open_tokenizer",
    "parse_vocabulary",
    "read_corpus",
    "read_vocabulary",
    "rewrite_tokenizer",
    "tokenizer_digest",
]

__version__ = _version("vocabmerge")
