"""True unions and exact trims of Hugging Face tokenizers, and the embeddings that go with them."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from vocabmerge.late_names import import_late as _import_late

if TYPE_CHECKING:
    from vocabmerge.carry.carry import Carried, carry
    from vocabmerge.carry.folder import carry_model, read_source
    from vocabmerge.carry.source import Source
    from vocabmerge.corpora import read_corpus, sample_lines
    from vocabmerge.count import count_characters, count_pieces
    from vocabmerge.encoder_folder.layout import Kind, Layout, read_layout
    from vocabmerge.errors import VocabularyError
    from vocabmerge.families.components import open_tokenizer
    from vocabmerge.hub.push import push_folder
    from vocabmerge.maps import VocabularyMap, identity_map, load_map, map_of_ids, map_of_lists
    from vocabmerge.models import select_rows
    from vocabmerge.tokenizer_file.reading import read_vocabulary
    from vocabmerge.tokenizer_file.rewrite import rewrite_tokenizer
    from vocabmerge.tokenizer_file.vocabulary import (
        Piece,
        Vocabulary,
        parse_vocabulary,
        tokenizer_digest,
    )
    from vocabmerge.trim.apply import apply_patch
    from vocabmerge.trim.fair_choice import FairChoice, choose_fair
    from vocabmerge.trim.folder import trim
    from vocabmerge.trim.more_lines import MoreLines, more_lines
    from vocabmerge.trim.trim import Trim, trim_vocabulary
    from vocabmerge.union.conflicts import find_conflicts
    from vocabmerge.union.fidelity import Fidelity, compare_segmentation
    from vocabmerge.union.folder import save_merged
    from vocabmerge.union.merge import Merged, merge_vocabularies
    from vocabmerge.union.overlap import inspect, overlap

__all__ = [
    "Carried",
    "FairChoice",
    "Fidelity",
    "Kind",
    "Layout",
    "Merged",
    "MoreLines",
    "Piece",
    "Source",
    "Trim",
    "Vocabulary",
    "VocabularyError",
    "VocabularyMap",
    "__version__",
    "apply_patch",
    "carry",
    "carry_model",
    "choose_fair",
    "compare_segmentation",
    "count_characters",
    "count_pieces",
    "find_conflicts",
    "identity_map",
    "inspect",
    "load_map",
    "map_of_ids",
    "map_of_lists",
    "merge_vocabularies",
    "more_lines",
    "open_tokenizer",
    "overlap",
    "parse_vocabulary",
    "push_folder",
    "read_corpus",
    "read_layout",
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
    "Carried": "carry.carry",
    "FairChoice": "trim.fair_choice",
    "Fidelity": "union.fidelity",
    "Kind": "encoder_folder.layout",
    "Layout": "encoder_folder.layout",
    "Merged": "union.merge",
    "MoreLines": "trim.more_lines",
    "Piece": "tokenizer_file.vocabulary",
    "Source": "carry.source",
    "Trim": "trim.trim",
    "Vocabulary": "tokenizer_file.vocabulary",
    "VocabularyError": "errors",
    "VocabularyMap": "maps",
    "apply_patch": "trim.apply",
    "carry": "carry.carry",
    "carry_model": "carry.folder",
    "choose_fair": "trim.fair_choice",
    "compare_segmentation": "union.fidelity",
    "count_characters": "count",
    "count_pieces": "count",
    "find_conflicts": "union.conflicts",
    "identity_map": "maps",
    "inspect": "union.overlap",
    "load_map": "maps",
    "map_of_ids": "maps",
    "map_of_lists": "maps",
    "merge_vocabularies": "union.merge",
    "more_lines": "trim.more_lines",
    "open_tokenizer": "families.components",
    "overlap": "union.overlap",
    "parse_vocabulary": "tokenizer_file.vocabulary",
    "push_folder": "hub.push",
    "read_corpus": "corpora",
    "read_layout": "encoder_folder.layout",
    "read_source": "carry.folder",
    "read_vocabulary": "tokenizer_file.reading",
    "rewrite_tokenizer": "tokenizer_file.rewrite",
    "sample_lines": "corpora",
    "save_merged": "union.folder",
    "select_rows": "models",
    "tokenizer_digest": "tokenizer_file.vocabulary",
    "trim": "trim.folder",
    "trim_vocabulary": "trim.trim",
}

_import_late(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
