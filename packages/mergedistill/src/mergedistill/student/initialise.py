"""How a student begins: from nothing, with embeddings made from its teachers', or with a teacher's layers too."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.errors import StageError
from mergedistill.recipe.corpora import corpus
from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.recipe import Recipe, Teaching
from teacherzoo import Teacher, load_teacher
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.families import known_family, longest_row
from teacherzoo.encoders.layers import (
    config_of_layers,
    list_of_layers,
    replace_layers,
    spread_layers,
)
from teacherzoo.encoders.teachers import read_config, teacher_folder
from teacherzoo.pretrain.shapes import attention_for, build_masked_lm
from vocabmerge import Source, Vocabulary, carry, load_map, open_tokenizer, read_vocabulary
from vocabmerge.carry.carry import Carried
from vocabmerge.carry.cooccurrence import cooccurrence_embeddings
from vocabmerge.models import move_padding, replace_tensors, set_token_ids, vocabulary_tensors

_CUT_AT_ONCE = 512  # documents: enough for the tokenizer's threads, little enough to hold


def new_student(recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble], vocabulary: Path) -> Any:
    """A stock masked LM over the merged vocabulary, as `student.start` says.

    Args:
        recipe: of the run.
        ensembles: by language.
        vocabulary: the folder of the merged vocabulary.

    Raises:
        StageError: for shapes and architectures that do not fit.
        TeacherzooError, VocabularyError: for a teacher that cannot be read, or rows that cannot be carried.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    if recipe.student.start == "scratch":
        return build_masked_lm(recipe.student.shape, tokenizer, seed=recipe.seed)
    refuse_misfits(recipe, ensembles)
    used = teachers_in_use(recipe, ensembles)
    first = _first(recipe, used)
    teachers = {
        name: load_teacher(find_teacher(used[name][0].teacher))
        for name in [first, *(name for name in used if name != first)]
    }
    if recipe.student.start == "teacher":
        student = _with_fewer_layers(teachers[first].model, recipe)
    else:
        student = build_masked_lm(recipe.student.shape, tokenizer, seed=recipe.seed)
    return _with_rows(student, _carried(recipe, teachers, vocabulary), tokenizer)


def refuse_unfit_teachers(recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]) -> None:
    """Before anything is spent: blocks longer than a teacher reads, and more pieces asked for than it has.

    Raises:
        StageError: in one sentence, with what to set.
    """
    for name, (entry, _) in teachers_in_use(recipe, ensembles).items():
        config = teacher_config(entry)
        longest = longest_row(config)
        if longest is not None and recipe.distil.block_length > longest:
            raise StageError(
                f"distil.block_length is {recipe.distil.block_length}, but {name} reads at most {longest} tokens; set no more "
                "than that."
            )
        if recipe.distil.sampler == "topk" and recipe.distil.k > config.vocab_size:
            raise StageError(
                f"distil.k is {recipe.distil.k:,}, but {name} has only {config.vocab_size:,} pieces; set no more than that."
            )


def teacher_config(teaching: Teaching) -> Any:
    """A teacher's configuration, read before its weights.

    Raises:
        TeacherError: where there is no such model, or none that can be a masked LM.
    """
    source = find_teacher(teaching.teacher)
    return read_config(teacher_folder(source), source)


def refuse_misfits(recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]) -> None:
    """Before anything is spent: a teacher that the student cannot begin from.

    Raises:
        StageError: in one sentence, with what to set.
    """
    if recipe.student.start == "scratch":
        return
    used = teachers_in_use(recipe, ensembles)
    name = _first(recipe, used)
    config = teacher_config(used[name][0])
    if recipe.student.start == "carried":
        _refuse_other_width(recipe, name, config)
    else:
        _refuse_other_shape(recipe, name, config)


def _first(recipe: Recipe, used: Mapping[str, Any]) -> str:
    """The teacher whose space the student begins in."""
    name = recipe.student.teacher or next(iter(used))
    if name not in used:
        raise StageError(
            f"student.teacher: {name} teaches no language in the end, so its pieces are not in the vocabulary; "
            f"choose one of {', '.join(used)}."
        )
    return name


def _refuse_other_width(recipe: Recipe, name: str, config: Any) -> None:
    family = known_family(config)
    wide = getattr(config, family.embedding_width or family.width)
    if wide != recipe.student.width:
        raise StageError(
            f"student.width is {recipe.student.width}, but the embeddings of {name} are {wide} wide; set student.width: "
            f"{wide}, or begin in the space of another teacher (student.teacher)."
        )


def _refuse_other_shape(recipe: Recipe, name: str, config: Any) -> None:
    student = recipe.student
    if config.model_type != student.architecture:
        raise StageError(
            f"student.architecture is {student.architecture!r}, but {name} is a {config.model_type!r} and its layers fit no "
            f"other; set student.architecture: {config.model_type}, or carry the embeddings alone (student.start: carried)."
        )
    family = known_family(config)
    stated = {
        "width": (family.width, student.width),
        "heads": (family.attention_heads, student.shape.head_count),
        "feed_forward": (family.inner, student.shape.inner_width),
    }
    corrections = [
        f"student.{key}: {getattr(config, field)}"
        for key, (field, value) in stated.items()
        if getattr(config, field) != value
    ]
    if corrections:
        raise StageError(
            f"the layers of {name} have another shape than the student; set {', '.join(corrections)}."
        )
    depth = config.num_hidden_layers
    if depth < student.layers:
        raise StageError(
            f"student.layers is {student.layers}, but {name} has only {depth}; set no more than that."
        )
    if family.first_layer_pinned and spread_layers(depth, student.layers, student.take)[0]:
        raise StageError(
            f"{name} is a {config.model_type!r}, whose first layer {family.first_layer_pinned} and must stay the first; set "
            "student.take: even or bottom."
        )


def _with_fewer_layers(teacher: Any, recipe: Recipe) -> Any:
    """A copy of a teacher with only the chosen layers, in their order."""
    model = copy.deepcopy(teacher)
    layers = spread_layers(
        model.config.num_hidden_layers, recipe.student.layers, recipe.student.take
    )
    if known_family(model.config).layers is not None:
        whole = list_of_layers(model.base_model)
        replace_layers(model.base_model, torch.nn.ModuleList([whole[number] for number in layers]))
    model.config = config_of_layers(model.config, layers)
    return model


def _carried(recipe: Recipe, teachers: Mapping[str, Teacher], vocabulary: Path) -> Carried:
    """Rows for all pieces, in the first teacher's space."""
    sources = {name: _source(name, teacher) for name, teacher in teachers.items()}
    new = _with_hidden_pieces(vocabulary, sources)
    auxiliary = None
    if recipe.student.carry == "focus":
        auxiliary = cooccurrence_embeddings(_Segmented(recipe, vocabulary), len(new))
    return carry(
        new,
        list(sources.values()),
        method=recipe.student.carry,
        auxiliary=auxiliary,
        seed=recipe.seed,
    )


def _with_hidden_pieces(vocabulary: Path, sources: Mapping[str, Source]) -> Vocabulary:
    """The merged vocabulary; what it hides from its own search is read from the maps of the teachers who have it."""
    new = read_vocabulary(vocabulary)
    keys, roles = list(new.keys), list(new.roles)
    for name, source in sources.items():
        rows = load_map(vocabulary / "maps" / f"{name}.safetensors").one_to_one().tolist()
        teacher = source.vocabulary
        for row, key, role in zip(rows, teacher.keys, teacher.roles, strict=True):
            if row >= 0 and roles[row] == "placeholder":
                keys[row], roles[row] = key, role
    return replace(new, keys=keys, roles=roles)


def _source(name: str, teacher: Teacher) -> Source:
    tensors = vocabulary_tensors(teacher.model)
    return Source(
        vocabulary=read_vocabulary(teacher.folder, name=name),
        embedding=tensors.embedding.detach(),
        head=None if tensors.head is None else tensors.head.detach(),
        bias=tensors.biases[0].detach() if tensors.biases else None,
    )


class _Segmented:
    """Every language's text as its own tokenizer cuts it, in the student's ids; read anew each time, a little at once."""

    def __init__(self, recipe: Recipe, vocabulary: Path) -> None:
        self._recipe = recipe
        self._vocabulary = vocabulary

    def __iter__(self) -> Iterator[NDArray[np.uint32]]:
        for language in self._recipe.languages:
            file = self._vocabulary / "languages" / language / "tokenizer.json"
            segmenter = open_tokenizer(json.loads(file.read_text(encoding="utf-8")), name=language)
            documents = islice(
                corpus(self._recipe, language).documents(),
                self._recipe.vocabulary.calibration_lines,
            )
            while texts := [document.text for document in islice(documents, _CUT_AT_ONCE)]:
                for encoding in segmenter.encode_batch_fast(texts, add_special_tokens=False):
                    yield np.array(encoding.ids, dtype=np.uint32)


def _with_rows(model: Any, carried: Carried, tokenizer: Any) -> Any:
    """The model with the carried tables and the tokenizer's special ids, built anew from its files as any stock model is."""
    tensors = vocabulary_tensors(model)
    rows = len(tokenizer)
    assert len(carried.embedding) == rows
    tables = {id(tensors.embedding): carried.embedding}
    if tensors.head is not None:
        # A head of its own, where the first teacher ties its head: begin tied in value.
        tables[id(tensors.head)] = (
            carried.head if carried.head is not None else carried.embedding
        ).clone()
    for bias in tensors.biases:
        tables[id(bias)] = torch.zeros(rows) if carried.bias is None else carried.bias.clone()
    old_pad = model.get_input_embeddings().padding_idx
    replace_tensors(model, tensors, tables)
    set_token_ids(
        model,
        {
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        },
    )
    if old_pad is not None:
        move_padding(model, old_pad, tokenizer.pad_token_id)
    return _reopened(model)


def _reopened(model: Any) -> Any:
    """The same weights in a model that knows nothing of how it came about (layers count from 0 again)."""
    from transformers import AutoModelForMaskedLM

    fresh = AutoModelForMaskedLM.from_config(
        model.config, attn_implementation=attention_for(model.config)
    )
    fresh.load_state_dict(model.state_dict())
    return fresh
