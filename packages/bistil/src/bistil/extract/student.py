"""The student as it starts: the teacher with layers left out, and narrower where that is asked for."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from bistil.counted import counted
from bistil.encoders.pooling import SentenceEncoder, SentenceModules
from bistil.encoders.widths import inner_width
from bistil.extract.config import Extraction
from bistil.extract.text import ExtractionText
from bistil.student.gates import UnitKind
from bistil.student.importance import unit_importance
from bistil.student.layers import student_of
from bistil.student.narrow import compared_covariance, narrow_model, narrowed, projection_of
from bistil.student.outputs import last_states, sentence_vectors
from bistil.student.units import explained_share, pivoted_cholesky_selection
from teacherzoo import Teacher
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.progress import ProgressCallback, no_progress

_SAMPLE = 8192  # positions of text on which units are chosen
_WEIGHTS, _KEPT = "narrow.safetensors", "kept.json"
_WORDS = {
    "reconstruction": "",
    "taylor": " by Taylor importance",
    "bottleneck": " by information-bottleneck masks",
}


@dataclass(frozen=True, kw_only=True)
class InitialStudent:
    """A student before its training.

    Attributes:
        student: of the teacher's class.
        units: the teacher's hidden units that its states stand for; None for all.
        projection: [H_t, H_s] that teacher states are multiplied by; None where they are as wide.
        heads: for each of its layers the numbers of the teacher's heads that it keeps; None for all.
        words: what was made narrower, for plan and card.
    """

    student: Any
    units: tuple[int, ...] | None = None
    projection: Tensor | None = None
    heads: tuple[tuple[int, ...], ...] | None = None
    words: tuple[str, ...] = ()


def initial_student(
    teacher: Teacher,
    layers: Sequence[int],
    extraction: Extraction,
    text: ExtractionText,
    *,
    sentences: SentenceModules | None,
    device: torch.device,
    cache_dir: Path,
    watch: ProgressCallback = no_progress,
) -> InitialStudent:
    """The teacher's layers `layers`, verified bit for bit, then made as narrow as `extraction` says.

    Args:
        teacher: in evaluation mode.
        layers: see `choose_layers`.
        extraction: widths, heads, how units are chosen, first weights, seed.
        text: of which a sample decides what is kept.
        sentences: what stands behind a sentence encoder, whose vectors decide then.
        device: on which importance is measured, where that takes gradients.
        cache_dir: a folder in which a narrower one stays, for a run that goes on and for others of the same text and shape.
        watch: told (done, total, what).
    """
    seed = extraction.seed if extraction.init == "random" else None
    student = student_of(teacher.model, layers, seed=seed)
    narrower = _sizes_that_differ(extraction, student.config)
    if not narrower:
        return InitialStudent(student=student)
    sample = text.sample(_SAMPLE)
    inputs = {
        "teacher": [teacher.weights_digest, teacher.tokenizer_digest],
        "sample": digest_of_values([block.tolist() for block in sample]),
        "layers": list(layers),
        **{name: getattr(extraction, name) for name in ("width", "feed_forward", "heads", "units", "init", "seed")},
    }  # fmt: skip

    def make(folder: Path) -> None:
        narrow, words, kept = _narrower(teacher.model, student, layers, extraction, narrower, sample, sentences, device, folder, watch)  # fmt: skip
        (folder / MADE).mkdir()
        save_model(narrow, str(folder / MADE / _WEIGHTS))
        (folder / MADE / _KEPT).write_text(json.dumps({"words": words, **kept}), encoding="utf-8")  # fmt: skip

    made = made_once(cache_dir / f"narrow-{digest_of_values(inputs)[:16]}", inputs, make, watch=watch)  # fmt: skip
    kept = json.loads((made / _KEPT).read_text(encoding="utf-8"))
    narrow = narrow_model(student, width=narrower.get("width"), feed_forward=narrower.get("feed_forward"), heads=narrower.get("heads"))  # fmt: skip
    load_model(narrow, str(made / _WEIGHTS))
    units = None if kept["units"] is None else tuple(kept["units"])
    of_layers = None if kept["heads"] is None else tuple(map(tuple, kept["heads"]))
    return InitialStudent(
        student=narrow, units=units, projection=None if units is None else projection_of(units, student.config.hidden_size),
        heads=of_layers, words=tuple(kept["words"]),
    )  # fmt: skip


def _sizes_that_differ(extraction: Extraction, config: Any) -> dict[str, int]:
    """Of width, feed-forward units and heads those that the student shall have otherwise than its teacher of this configuration."""
    of_teacher = {
        "width": config.hidden_size, "feed_forward": inner_width(config), "heads": config.num_attention_heads
    }  # fmt: skip
    asked = {name: getattr(extraction, name) for name in of_teacher}
    return {name: size for name, size in asked.items() if size not in (None, of_teacher[name])}


def _narrower(
    teacher: Any,
    student: Any,
    layers: Sequence[int],
    extraction: Extraction,
    narrower: Mapping[str, int],
    sample: Sequence[Tensor],
    sentences: SentenceModules | None,
    device: torch.device,
    work: Path,
    watch: ProgressCallback,
) -> tuple[Any, list[str], dict[str, Any]]:
    """The narrower student, what was made narrower in words, and which hidden units and heads it keeps."""
    assert extraction.units is not None  # decided when the run was checked
    whole, inner = teacher.config.hidden_size, inner_width(teacher.config)
    count = teacher.config.num_attention_heads
    width, feed_forward, heads = map(narrower.get, ("width", "feed_forward", "heads"))
    seed = extraction.seed if extraction.init == "random" else None
    keep: dict[UnitKind, float] = {}
    chosen: dict[str, Any] = {}
    if extraction.units != "reconstruction":
        if width is not None:
            keep["hidden"] = width / whole
        if feed_forward is not None and seed is None:
            keep["feed_forward"] = feed_forward / inner
    if heads is not None:
        keep["heads"] = heads / count
    if keep:
        cut = student if seed is None else student_of(teacher, layers)
        chosen = _chosen(cut, sample, keep, extraction, sentences, device, work, watch)
    units, words = None, []
    by = _WORDS[extraction.units]
    if width is not None:
        covariance = compared_covariance(teacher, layers, sample)
        units = tuple(chosen["hidden"]) if "hidden" in chosen else pivoted_cholesky_selection(covariance, width).numbers  # fmt: skip
        words.append(
            f"{width:,} of {whole:,} hidden units{by}; the projection of the teacher's states is the choice of these, which tell "
            f"{100 * explained_share(covariance, units):.0f} % of their variance by a linear map"
        )
    if feed_forward is not None:
        words.append(f"{feed_forward:,} of {inner:,} units in each feed-forward layer{by if seed is None else ''}")  # fmt: skip
    if heads is not None:
        words.append(f"{heads:,} of {count:,} attention heads in each layer{by}, of {counted((width or whole) // heads, 'unit')} each")  # fmt: skip
    narrow = narrowed(
        student, sample, units=units, feed_forward=feed_forward, inner_units=chosen.get("feed_forward"), heads=chosen.get("heads"),
        seed=seed,
    )  # fmt: skip
    return narrow, words, {"units": units, "heads": chosen.get("heads")}


def _chosen(
    cut: Any,
    sample: Sequence[Tensor],
    keep: Mapping[UnitKind, float],
    extraction: Extraction,
    sentences: SentenceModules | None,
    device: torch.device,
    work: Path,
    watch: ProgressCallback,
) -> dict[str, Any]:
    """Numbers of the units that are kept by kind, measured on the cut teacher once: all processes and a run that goes on read them."""

    def make(folder: Path) -> None:
        model = cut if sentences is None else SentenceEncoder(cut, copy.deepcopy(sentences.modules))
        outputs = last_states if sentences is None else sentence_vectors
        assert extraction.units is not None
        importance = unit_importance(
            model.to(device), sample, extraction.units, kinds=list(keep), outputs=outputs, keep=keep, seed=extraction.seed, watch=watch
        )  # fmt: skip
        model.cpu()
        kept: dict[str, Any] = {}
        if extraction.width is not None and "hidden" in keep:
            kept["hidden"] = importance.kept_hidden(extraction.width)
        if extraction.feed_forward is not None and "feed_forward" in keep:
            kept["feed_forward"] = importance.kept_feed_forward(extraction.feed_forward)
        if extraction.heads is not None and "heads" in keep:
            kept["heads"] = importance.kept_heads(extraction.heads)
        (folder / MADE).mkdir()
        (folder / MADE / "units.json").write_text(json.dumps(kept), encoding="utf-8")

    # The work folder is that of one student's inputs, which decide these too.
    made = made_once(work / "units", {"units": extraction.units}, make, watch=watch)
    kept: dict[str, Any] = json.loads((made / "units.json").read_text(encoding="utf-8"))
    return kept
