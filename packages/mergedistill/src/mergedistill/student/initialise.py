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
from mergedistill.recipe.recipe import Recipe
from teacherzoo import Teacher, load_teacher
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.teachers import read_config, teacher_folder
from teacherzoo.pretrain.shapes import attention_for, build_masked_lm
from vocabmerge import Source, Vocabulary, carry, load_map, open_tokenizer, read_vocabulary
from vocabmerge.carry.carry import Carried
from vocabmerge.carry.cooccurrence import cooccurrence_embeddings
from vocabmerge.models import move_padding, replace_tensors, set_token_ids, vocabulary_tensors

_CUT_AT_ONCE = 512  # documents: enough for the tokenizer's threads, little enough to hold


def new_student(recipe: Recipe, found: Mapping[str, TeacherEnsemble], vocabulary: Path) -> Any:
    """A stock masked LM over the merged vocabulary, as `student.start` says.

    Args:
        recipe: of the run.
        found: who teaches what.
        vocabulary: the folder of the merged vocabulary.

    Raises:
        StageError: for shapes and architectures that do not fit.
        TeacherzooError, VocabularyError: for a teacher that cannot be read, or rows that cannot be carried.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    if recipe.student.start == "scratch":
        return build_masked_lm(recipe.student.shape, tokenizer, seed=recipe.seed)
    refuse_misfits(recipe, found)
    used = teachers_in_use(recipe, found)
    first = _first(recipe, used)
    teachers = {
        name: load_teacher(find_teacher(used[name][0].teacher))
        for name in [first, *(name for name in used if name != first)]
    }
    if recipe.student.start == "teacher":
        student = _lower(teachers[first].model, recipe)
    else:
        student = build_masked_lm(recipe.student.shape, tokenizer, seed=recipe.seed)
    return _with_rows(student, _carried(recipe, teachers, vocabulary), tokenizer)


def refuse_unfit_teachers(recipe: Recipe, found: Mapping[str, TeacherEnsemble]) -> None:
    """Before anything is spent: blocks longer than a teacher reads, and more pieces asked for than it has.

    Raises:
        StageError: in one sentence, with what to set.
    """
    for name, (each, _) in teachers_in_use(recipe, found).items():
        source = find_teacher(each.teacher)
        config = read_config(teacher_folder(source), source)
        longest = _longest_row(config)
        if recipe.distil.block_length > longest:
            raise StageError(
                f"distil.block_length is {recipe.distil.block_length}, but {name} reads at most {longest} tokens; set no more "
                "than that."
            )
        if recipe.distil.k > config.vocab_size:
            raise StageError(
                f"distil.k is {recipe.distil.k:,}, but {name} has only {config.vocab_size:,} pieces; set no more than that."
            )


def _longest_row(config: Any) -> int:
    """In tokens, as far as a configuration tells; RoBERTa and its kin count positions from the padding id on."""
    kin = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
    offset = config.pad_token_id + 1 if config.model_type in kin else 0
    return int(getattr(config, "max_position_embeddings", 10**9) - offset)


def refuse_misfits(recipe: Recipe, found: Mapping[str, TeacherEnsemble]) -> None:
    """Before anything is spent: a teacher that the student cannot begin from.

    Raises:
        StageError: in one sentence, with what to set.
    """
    if recipe.student.start == "scratch":
        return
    used = teachers_in_use(recipe, found)
    name = _first(recipe, used)
    source = find_teacher(used[name][0].teacher)
    config = read_config(teacher_folder(source), source)
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


def taken_layers(depth: int, layers: int, take: str) -> list[int]:
    """Which of a teacher's layers become the student's.

    Args:
        depth: of the teacher.
        layers: of the student, no more.
        take: `last` of each of as many blocks, `even`ly spread from first to last, or the `bottom` ones.

    Example:
        >>> taken_layers(12, 6, "last"), taken_layers(12, 4, "even"), taken_layers(12, 3, "bottom")
        ([1, 3, 5, 7, 9, 11], [0, 4, 7, 11], [0, 1, 2])
    """
    if take == "bottom" or layers == depth:
        return list(range(layers))
    if take == "last":
        return [(number + 1) * depth // layers - 1 for number in range(layers)]
    # Half a step up: round() would go to even numbers.
    return [int(number * (depth - 1) / max(1, layers - 1) + 0.5) for number in range(layers)]


def _refuse_other_width(recipe: Recipe, name: str, config: Any) -> None:
    wide = getattr(config, "embedding_size", None) or config.hidden_size
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
    # DistilBERT's configuration knows the others by these names too, but calls its inner width otherwise.
    inner_width = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
    wanted = {
        "width": ("hidden_size", student.width),
        "heads": ("num_attention_heads", student.shape.head_count),
        "feed_forward": (inner_width, student.shape.inner_width),
    }
    others = [
        f"student.{key}: {getattr(config, field)}"
        for key, (field, value) in wanted.items()
        if getattr(config, field) != value
    ]
    if others:
        raise StageError(
            f"the layers of {name} have another shape than the student; set {', '.join(others)}."
        )
    depth = config.num_hidden_layers
    if depth < student.layers:
        raise StageError(
            f"student.layers is {student.layers}, but {name} has only {depth}; set no more than that."
        )
    if config.model_type == "modernbert" and taken_layers(depth, student.layers, student.take)[0]:
        raise StageError(
            f"{name} is a ModernBERT, whose first layer has no norm before its attention and must stay the first; "
            "set student.take: even or bottom."
        )


def _lower(teacher: Any, recipe: Recipe) -> Any:
    """A copy of a teacher with only the chosen layers, in their order."""
    model = copy.deepcopy(teacher)
    depth = model.config.num_hidden_layers
    chosen = taken_layers(depth, recipe.student.layers, recipe.student.take)
    for module in model.modules():
        for key, child in list(module._modules.items()):
            if isinstance(child, torch.nn.ModuleList) and len(child) == depth:
                module._modules[key] = torch.nn.ModuleList([child[number] for number in chosen])
    kinds = getattr(model.config, "layer_types", None)
    model.config.num_hidden_layers = len(chosen)
    if kinds is not None:
        model.config.layer_types = [kinds[number] for number in chosen]
    return model


def _carried(recipe: Recipe, teachers: Mapping[str, Teacher], vocabulary: Path) -> Carried:
    """Rows for all pieces, in the first teacher's space."""
    sources = {name: _source(name, teacher) for name, teacher in teachers.items()}
    new = _told_by_teachers(vocabulary, sources)
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


def _told_by_teachers(vocabulary: Path, sources: Mapping[str, Source]) -> Vocabulary:
    """The merged vocabulary; what it hides from its own search is told by the maps of the teachers who have it."""
    new = read_vocabulary(vocabulary)
    keys, roles = list(new.keys), list(new.roles)
    for name, source in sources.items():
        rows = load_map(vocabulary / "maps" / f"{name}.safetensors").one_to_one().tolist()
        its = source.vocabulary
        for row, key, role in zip(rows, its.keys, its.roles, strict=True):
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
            while some := [document.text for document in islice(documents, _CUT_AT_ONCE)]:
                for encoding in segmenter.encode_batch_fast(some, add_special_tokens=False):
                    yield np.array(encoding.ids, dtype=np.uint32)


def _with_rows(model: Any, made: Carried, tokenizer: Any) -> Any:
    """The model with the carried tables and the tokenizer's special ids, built anew from its files as any stock model is."""
    tensors = vocabulary_tensors(model)
    rows = len(tokenizer)
    assert len(made.embedding) == rows
    tables = {id(tensors.embedding): made.embedding}
    if tensors.head is not None:
        # A head of its own, where the first teacher ties its head: begin tied in value.
        tables[id(tensors.head)] = (made.head if made.head is not None else made.embedding).clone()
    for bias in tensors.biases:
        tables[id(bias)] = torch.zeros(rows) if made.bias is None else made.bias.clone()
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
