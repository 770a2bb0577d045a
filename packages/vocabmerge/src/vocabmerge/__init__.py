"""True unions and exact trims of Hugging Face tokenizers, and the embeddings that go with them."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from vocabmerge.carry import Carried, carry
    from vocabmerge.carry_folder import carry_model, read_source
    from vocabmerge.carry_source import Source
    from vocabmerge.choose import FairChoice, choose_fair
    from vocabmerge.conflicts import find_conflicts
    from vocabmerge.corpora import read_corpus, sample_lines
    from vocabmerge.count import count_pieces
    from vocabmerge.errors import VocabularyError
    from vocabmerge.fidelity import Fidelity, compare_segmentation
    from vocabmerge.maps import VocabularyMap, identity_map, load_map, map_of_ids, map_of_lists
    from vocabmerge.merge import Merged, merge_vocabularies
    from vocabmerge.merged_folder import save_merged
    from vocabmerge.models import select_rows
    from vocabmerge.overlap import inspect, overlap
    from vocabmerge.reading import read_vocabulary
    from vocabmerge.rewrite import rewrite_tokenizer
    from vocabmerge.trim import Trim, trim_vocabulary
    from vocabmerge.trim_folder import trim
    from vocabmerge.vocabulary import (
        Piece,
        Vocabulary,
        open_tokenizer,
        parse_vocabulary,
        tokenizer_digest,
    )

__all__ = [
    "Carried",
    "FairChoice",
    "Fidelity",
    "Merged",
    "Piece",
    "Source",
    "Trim",
    "Vocabulary",
    "VocabularyError",
    "VocabularyMap",
    "__version__",
    "carry",
    "carry_model",
    "choose_fair",
    "compare_segmentation",
    "count_pieces",
    "find_conflicts",
    "identity_map",
    "inspect",
    "load_map",
    "map_of_ids",
    "map_of_lists",
    "merge_vocabularies",
    "open_tokenizer",
    "overlap",
    "parse_vocabulary",
    "read_corpus",
    "read_source",
    "read_vocabulary",
    "rewrite_tokenizer",
    "sample_lines",
    "save_merged",
    "select_rows",
    "tokenizer_digest",
    "trim",
    "trim_vocabulary",
]

__version__ = _version("vocabmerge")

_HOMES = {
    "Carried": "carry",
    "FairChoice": "choose",
    "Fidelity": "fidelity",
    "Merged": "merge",
    "Piece": "vocabulary",
    "Source": "carry_source",
    "Trim": "trim",
    "Vocabulary": "vocabulary",
    "VocabularyError": "errors",
    "VocabularyMap": "maps",
    "carry": "carry",
    "carry_model": "carry_folder",
    "choose_fair": "choose",
    "compare_segmentation": "fidelity",
    "count_pieces": "count",
    "find_conflicts": "conflicts",
    "identity_map": "maps",
    "inspect": "overlap",
    "load_map": "maps",
    "map_of_ids": "maps",
    "map_of_lists": "maps",
    "merge_vocabularies": "merge",
    "open_tokenizer": "vocabulary",
    "overlap": "overlap",
    "parse_vocabulary": "vocabulary",
    "read_corpus": "corpora",
    "read_source": "carry_folder",
    "read_vocabulary": "reading",
    "rewrite_tokenizer": "rewrite",
    "sample_lines": "corpora",
    "save_merged": "merged_folder",
    "select_rows": "models",
    "tokenizer_digest": "vocabulary",
    "trim": "trim_folder",
    "trim_vocabulary": "trim",
}

_import_late(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
