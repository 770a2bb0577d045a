"""Opens all parts of a model folder and refuses what cannot be cut, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vocabmerge.encoder_folder.layout import Layout
from vocabmerge.encoder_folder.sentence_modules import Module, module_config
from vocabmerge.encoder_folder.side_files import SideFiles, side_parameters, sort_side_files
from vocabmerge.encoder_folder.transformer_part import TransformerPart, open_part
from vocabmerge.encoder_folder.weight_files import StoredTensor, read_tensors
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class TablePart:
    """A module of static embeddings.

    Args:
        rows: how many rows its vocabulary has.
        vocabulary: names of the tensors that have one row per piece.
        stored: the tensors of its file.
        metadata: what the file says of itself.
    """

    rows: int
    vocabulary: frozenset[str]
    stored: tuple[StoredTensor, ...]
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """All parts of a model folder, open.

    Args:
        transformers: by their folders, relative to the model's.
        tables: static embeddings, likewise.
        side_files: what becomes of all other files.
        side_parameters: how many values each side file with tensors has.
    """

    transformers: Mapping[Path, TransformerPart]
    tables: Mapping[Path, TablePart]
    side_files: SideFiles
    side_parameters: Mapping[Path, int]

    @property
    def rows(self) -> set[int]:
        """How many rows the parts have for the vocabulary."""
        return {part.rows for part in _opened(self.transformers, self.tables).values()}


def check_folder(layout: Layout, vocabulary: Vocabulary) -> None:
    """Refuse a folder that `write_trimmed` would refuse, before anything is counted.

    Args:
        layout: the folder's.
        vocabulary: its tokenizer.

    Raises:
        VocabularyError: tables with fewer rows than the tokenizer has ids, routes with different tokenizers, or a part
            that is not understood, by its name.
    """
    open_parts(layout, vocabulary)


def open_parts(layout: Layout, vocabulary: Vocabulary) -> Parts:
    """Open every part of a folder; see `check_folder`."""
    transformers = {path: open_part(layout.folder / path) for path in layout.transformers}
    tables = {module.path: _open_table(layout.folder, module) for module in layout.tables}
    opened = _opened(transformers, tables)
    for path, part in opened.items():
        if part.rows < len(vocabulary):
            raise VocabularyError(
                f"{layout.folder / path}: the tokenizer has {len(vocabulary)} ids and the embedding {part.rows} rows; "
                "rows beyond the vocabulary are legal, missing ones are not: resize the model's embedding, or take "
                "the tokenizer that it was trained with"
            )
    for path in layout.tokenizers[1:]:
        if read_vocabulary(layout.folder / path).digest != vocabulary.digest:
            raise VocabularyError(
                f"{layout.folder}: expected one tokenizer behind the router, those of {layout.tokenizer} and {path} "
                "differ; trim the model of each route alone, and put the router together again"
            )
    side_files = sort_side_files(layout)
    rows = {part.rows for part in opened.values()}
    return Parts(
        transformers=transformers,
        tables=tables,
        side_files=side_files,
        side_parameters=side_parameters(
            layout.folder, side_files.copied, rows and {*rows, len(vocabulary)}
        ),
    )


def _opened(
    transformers: Mapping[Path, TransformerPart], tables: Mapping[Path, TablePart]
) -> dict[Path, TransformerPart | TablePart]:
    return {**transformers, **tables}


def _open_table(folder: Path, module: Module) -> TablePart:
    if module_config(folder, module).get("path"):
        raise VocabularyError(
            f"{folder / module.file}: reads its weights from a path; load it with sentence-transformers and save it "
            "again, with its weights"
        )
    stored, metadata = read_tensors(folder / module.path)
    names = {tensor.name for tensor in stored}
    if module.name == "SparseStaticEmbedding":
        tables = names & {"weight"}
    elif "mapping" in names:  # of model2vec: pieces share rows
        tables = names & {"mapping", "weights"}
    else:
        tables = names & {"embedding.weight", "embeddings", "weights"}
    lengths = {tensor.shape[0] for tensor in stored if tensor.name in tables}
    if len(lengths) != 1:
        raise VocabularyError(
            f"{folder / module.path}: expected the weights of {module.name} with one row per piece, got "
            f"{', '.join(sorted(names)) or 'nothing'}; save it again with sentence-transformers"
        )
    return TablePart(
        rows=lengths.pop(), vocabulary=frozenset(tables), stored=stored, metadata=metadata
    )
