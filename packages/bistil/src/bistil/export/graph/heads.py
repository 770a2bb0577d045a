"""What of a task's head goes into an exported graph, and how the judge reads what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xeval.task_templates.batches import IGNORED
from xeval.task_templates.biaffine import BiaffineHead
from xeval.task_templates.heads import ChoiceHead, SpanHead, TextHead, WordHead, word_states

Named = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A kind of head, in a graph.

    Attributes:
        outputs: names of what comes out, and what the axes of each are.
        in_graph: head, hidden states [R, T, H], mask [R, T] and, with `words`, the judge's `word_start` and `word_size` [B, W],
            to those outputs.
        as_judged: what comes out and the judge's batch, as the head itself would have answered.
        words: whether the graph takes the places of words, too.
    """

    outputs: Mapping[str, tuple[str, ...]]
    in_graph: Callable[..., tuple[Tensor, ...]]
    as_judged: Callable[[Any, Named, Named], Named]
    words: bool = False


def part_of(head: Any) -> Part | None:
    """How a head is exported; None for one that cannot be."""
    return _PARTS.get(type(head))


def _words(head: Any, hidden: Tensor, _mask: Tensor) -> tuple[Tensor, ...]:
    # The judge reads the first sub-word of a word or their mean; the map is linear, so either may be taken behind it.
    return (head.out(hidden),)


def _texts(head: Any, hidden: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return (head(hidden, {"attention_mask": mask})["labels"],)


def _options(head: Any, hidden: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return (head.text(hidden, {"attention_mask": mask})["labels"][:, 0],)


def _spans(head: Any, hidden: Tensor, _mask: Tensor) -> tuple[Tensor, ...]:
    start, end = head.out(hidden).unbind(dim=-1)
    return start, end


def _trees(head: Any, hidden: Tensor, _mask: Tensor, start: Tensor, size: Tensor) -> tuple[Tensor, ...]:  # fmt: skip
    """`BiaffineHead.forward` in what a graph of any size can say, and the relations under every possible head."""
    words = _word_states(hidden, start, size, head.pooling)
    sentences, count = start.shape
    nodes = torch.cat([head.root.expand(sentences, 1, -1), words], dim=1)
    arcs = _with_one(head.arc_dependent(words)) @ head.arc @ head.arc_governor(nodes).mT
    absent = F.pad(size == 0, (1, 0))
    loops = torch.arange(count)[:, None] + 1 == torch.arange(count + 1)
    arcs = arcs.masked_fill(absent[:, None] | loops, float("-inf"))
    classes, inner, outer = head.relation.shape
    # As one product with constants, which eight bits can hold.
    maps = head.relation.permute(1, 0, 2).reshape(inner, classes * outer)
    turned = (_with_one(head.relation_dependent(words)) @ maps).unflatten(-1, (classes, outer))
    relations = torch.einsum("bwcj,bvj->bwvc", turned, _with_one(head.relation_governor(nodes)))
    return arcs, relations


def _word_states(hidden: Tensor, start: Tensor, size: Tensor, pooling: str) -> Tensor:
    """The judge's `word_states`, which counts up to the longest word: a graph cannot."""
    flat = hidden.flatten(0, 1)
    if pooling == "first":
        return flat[start]
    places = torch.arange(flat.shape[0])
    inside = (places >= start[..., None]) & (places < (start + size)[..., None])
    return inside.to(flat.dtype) @ flat / size.clamp(min=1)[..., None]


def _with_one(states: Tensor) -> Tensor:
    return torch.cat([states, torch.ones_like(states[..., :1])], dim=-1)


def _judged_spans(_head: Any, outputs: Named, batch: Named) -> Named:
    outside = ~batch["answerable"].bool()
    return {name: outputs[name].masked_fill(outside, float("-inf")) for name in ("start", "end")}


def _judged_options(_head: Any, outputs: Named, batch: Named) -> Named:
    rows = batch["option_rows"]
    scores = outputs["score"][rows.clamp(min=0)]
    return {"options": scores.masked_fill(rows == IGNORED, float("-inf"))}


_PARTS: dict[type[nn.Module], Part] = {
    WordHead: Part(
        outputs={"logits": ("batch", "sequence", "labels")},
        in_graph=_words,
        as_judged=lambda head, outputs, batch: {
            "labels": word_states(outputs["logits"], batch, head.pooling)
        },
    ),
    TextHead: Part(
        outputs={"logits": ("batch", "labels")},
        in_graph=_texts,
        as_judged=lambda _head, outputs, _batch: {"labels": outputs["logits"]},
    ),
    ChoiceHead: Part(outputs={"score": ("batch",)}, in_graph=_options, as_judged=_judged_options),
    SpanHead: Part(
        outputs={"start": ("batch", "sequence"), "end": ("batch", "sequence")},
        in_graph=_spans,
        as_judged=_judged_spans,
    ),
    BiaffineHead: Part(
        outputs={
            "arcs": ("sentences", "words", "heads"),
            "relations": ("sentences", "words", "heads", "labels"),
        },
        in_graph=_trees,
        as_judged=lambda _head, outputs, _batch: outputs,
        words=True,
    ),
}
