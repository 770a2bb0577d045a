"""The encoder from which pretraining goes on: checked, trimmed to the languages, and given a masked-LM head where it has none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teacherzoo.atomic_write import remove
from teacherzoo.catalogue.catalogue import local_folder
from teacherzoo.encoders.families import FAMILIES, known_family, longest_row
from teacherzoo.encoders.kinds import PLAIN_NAMES, encoder_folder, model_layout, open_whole
from teacherzoo.errors import TeacherError
from teacherzoo.pretrain.config import ContinuedPretraining
from teacherzoo.progress import ProgressCallback
from teacherzoo.text.corpora import Corpus
from vocabmerge import Kind, Layout, trim

if TYPE_CHECKING:
    import torch

_SAMPLE = 200_000  # documents a language is asked for the pieces that it needs
TRIMMED, TEXTS = "trimmed", "texts"
"""In a work folder, the trimmed source, and what it is trimmed by."""
_WITH_HEAD = (Kind.MASKED_LM, Kind.SPARSE)


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """What pretraining goes on from.

    Attributes:
        model: a masked LM with the source's weights, in evaluation mode.
        encoder: the source's own, up to the highest layer that `model` has; None where no states are asked for.
        layers: for each of the model's layers the source's.
        new_head: whether the head is random, for the source has none.
        dropouts: of the source's configuration, which are 0 in `model`.
        tokenizer: of transformers.
    """

    model: Any
    encoder: Any
    layers: tuple[int, ...]
    new_head: bool
    dropouts: Mapping[str, float]
    tokenizer: Any

    def restore_dropouts(self) -> None:
        """Let the model's configuration say again what the source's says of dropout."""
        for name, value in self.dropouts.items():
            setattr(self.model.config, name, value)


def check_source(source: str | Path, config: ContinuedPretraining) -> None:
    """Refuse a local folder that pretraining cannot go on from, before torch is imported; a name on the Hub is not fetched.

    Raises:
        TeacherError: for what is no encoder, of an architecture that is not known or has no masked LM, and for layers that
            it does not have or cannot do without.
        VocabularyError: for a part of the folder that is not understood.
    """
    folder = local_folder(source)
    if folder is not None:
        _check(model_layout(folder), config)


def trimmed_source(
    source: Path,
    corpora: Sequence[Corpus],
    config: ContinuedPretraining,
    work: Path,
    *,
    watch: ProgressCallback,
) -> Path:
    """The source with the pieces alone that the training parts of the corpora need, made once in `work`; itself where all stay.

    Raises:
        TeacherError: see `check_source`.
        VocabularyError: for a tokenizer that cannot be trimmed.
    """
    _check(model_layout(source), config)
    place, texts = work / TRIMMED, work / TEXTS
    if config.keep_vocabulary or place.exists():
        return source if config.keep_vocabulary else place
    texts.mkdir(exist_ok=True)
    files = {corpus.language: texts / f"{corpus.language}.txt" for corpus in corpora}
    for corpus in corpora:
        watch(0, len(corpora), f"reading {corpus.language}")
        documents = islice(replace(corpus, part="train").documents(), _SAMPLE)
        lines = (f"{' '.join(document.text.splitlines())}\n" for document in documents)
        with files[corpus.language].open("w", encoding="utf-8") as file:
            file.writelines(lines)
    trim(
        source,
        {language: [file] for language, file in files.items()},
        place,
        top=config.vocabulary,
        lines=None,
        watch=lambda done, total, what: watch(done, total or 0, what),
    )
    remove(texts)
    return place


def open_source(folder: Path, config: ContinuedPretraining, *, name: str | Path) -> SourceModel:
    """Make a masked LM of what lies in a folder: the chosen layers, and a head of transformers' own class for that architecture.

    A new head multiplies by the input embeddings; the rest of it is random, of the seed. A head that is there is kept.

    Args:
        folder: of any kind of encoder.
        config: of the training.
        name: the user's, for messages.

    Raises:
        TeacherError: see `check_source`; for a tokenizer without a mask, and blocks longer than the model reads.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    from teacherzoo.encoders.layers import config_of_layers, lowest_layers
    from teacherzoo.encoders.teachers import read_tokenizer
    from teacherzoo.pretrain.shapes import attention_for

    layout = model_layout(folder)
    tokenizer = read_tokenizer(folder / layout.tokenizer, name)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    opened = open_whole(layout)
    longest = longest_row(opened.config)
    if longest is not None and config.length > longest:
        raise TeacherError(
            f"{name}: the model reads at most {longest} tokens, and blocks have {config.length}; choose a smaller length."
        )
    depth = getattr(opened.config, known_family(opened.config).depth)
    layers = _check(layout, config, depth=depth) or tuple(range(depth))
    fewer = config_of_layers(opened.config, layers)
    dropouts = {drop: getattr(fewer, drop) for drop in known_family(fewer).dropouts}
    for drop in dropouts:
        setattr(fewer, drop, 0.0)
    new_head = layout.kind not in _WITH_HEAD
    if new_head:
        fewer.tie_word_embeddings = True
    torch.manual_seed(config.seed)
    model = AutoModelForMaskedLM.from_config(
        fewer, attn_implementation=attention_for(fewer), dtype=torch.float32
    ).eval()
    part = (lambda whole: whole.base_model) if new_head else (lambda whole: whole)
    _copy(part(opened), part(model), layers)
    return SourceModel(
        model=model,
        encoder=lowest_layers(opened.base_model, max(layers) + 1) if config.states else None,
        layers=layers,
        new_head=new_head,
        dropouts=dropouts,
        tokenizer=tokenizer,
    )


def _check(
    layout: Layout, config: ContinuedPretraining, *, depth: int | None = None
) -> tuple[int, ...]:
    """The chosen layers; () for all, or where the file of the configuration does not say how many there are."""
    folder = encoder_folder(layout)
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = stated.get("model_type")
    if kind not in FAMILIES:
        raise TeacherError(
            f"{layout.folder}: {PLAIN_NAMES[layout.kind]} of the architecture {kind!r}, from which no masked LM can be made here; "
            f"give a folder of one of {', '.join(sorted(FAMILIES))}."
        )
    family = FAMILIES[kind]
    if config.layers is None:
        return ()
    depth = depth or stated.get(family.depth)
    if family.layers is None:
        raise TeacherError(f"{layout.folder}: {family.unreached}; leave layers out.")
    if depth is None:
        return ()
    layers = tuple(range(config.layers)) if isinstance(config.layers, int) else config.layers
    if not layers or min(layers) < 0 or max(layers) >= depth or list(layers) != sorted({*layers}):
        raise TeacherError(
            f"{layout.folder}: layers must be ascending numbers from 0 to {depth - 1}, or how many of its first, from 1 to "
            f"{depth}, got {config.layers!r}."
        )
    if family.first_layer_pinned and layers[0] != 0:
        raise TeacherError(
            f"{layout.folder}: the first layer of a {kind!r} model {family.first_layer_pinned}, so that layers must begin with "
            f"0, got {config.layers!r}."
        )
    return layers


def _copy(source: torch.nn.Module, model: torch.nn.Module, layers: Sequence[int]) -> None:
    """Put the source's weights into a model of the same class but for its head, with those of its layers alone."""
    weights = {}
    places = {old: new for new, old in enumerate(layers)}
    base: Any = source.base_model
    path = known_family(base.config).layers
    if path is not None:
        prefix = path if base is source else f"{source.base_model_prefix}.{path}"
    for name, tensor in source.state_dict().items():
        if path is None or not name.startswith(f"{prefix}."):
            weights[name] = tensor
            continue
        number, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        if int(number) in places:
            weights[f"{prefix}.{places[int(number)]}.{rest}"] = tensor
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert not missing, missing
