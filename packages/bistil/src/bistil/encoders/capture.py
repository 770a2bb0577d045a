"""Listening to an encoder's forward pass: hidden states, and the queries and keys that attention multiplies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bistil.errors import ModelError

_NAME = "bistil_capture"  # of the attention function that transformers calls in our stead


@dataclass(frozen=True)
class Attention:
    """What one layer attended by: queries and keys, or the maps themselves where these do not tell all.

    Attributes:
        queries: [B, h, S, d], after rotary embedding; None with `maps`.
        keys: as `queries`.
        values: as `queries`, if asked for.
        scale: factor of the products.
        window: width of local attention, None where it is global.
        maps: [B, h, S, S] after the softmax, of DeBERTa-v2 and v3, whose scores have relative parts.
    """

    queries: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    scale: float = 1.0
    window: int | None = None
    maps: Tensor | None = None


@dataclass
class Activations:
    """One forward pass.

    Attributes:
        hidden: [B, S, H] by number: 0 behind the embeddings, j behind layer j - 1.
        attention: by layer, from 0.
        last: [B, S, H] what the encoder returned, behind a final norm where it has one.
        pre_norm: whether hidden states are sums that no norm has bounded (ModernBERT).
    """

    pre_norm: bool = False
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Attention] = field(default_factory=dict)
    last: Tensor | None = None


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps what we listen to.

    Attributes:
        layers: path of the list of layers below the base model.
        attention: path of the attention below a layer.
        maps: whether only eager maps tell what it attends to.
        pre_norm: see `Activations`.
    """

    layers: str
    attention: str
    maps: bool = False
    pre_norm: bool = False


_BERT = Family("encoder.layer", "attention.self")
FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "distilbert": Family("transformer.layer", "attention"),
    "modernbert": Family("layers", "attn", pre_norm=True),
    "deberta-v2": Family("encoder.layer", "attention.self", maps=True),
}


def family_of(model: nn.Module) -> Family:
    """The family of a model's encoder.

    Raises:
        ModelError: for an architecture whose attention we cannot reach.
    """
    kind = encoder_of(model).config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"{type(model).__name__}: the attention of a {kind!r} model cannot be reached; "
            f"the families are {', '.join(FAMILIES)}."
        )
    return FAMILIES[kind]


def encoder_of(model: nn.Module) -> Any:
    """The headless encoder inside a masked LM, a task model of xeval, or any module that holds one.

    Raises:
        ModelError: where there is none.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module.base_model
    raise ModelError(f"{type(model).__name__} holds no encoder of transformers.")


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The encoder's layers, first to last."""
    layers: Any = encoder_of(model).get_submodule(family_of(model).layers)
    return layers


@contextlib.contextmanager
def capture_activations(
    model: nn.Module, *, layers: Collection[int] | None = None, values: bool = False
) -> Iterator[Activations]:
    """Listen to the next forward pass of `model`, which runs on SDPA attention meanwhile.

    No attention map is made, but for DeBERTa-v2 and v3, whose eager ones are kept. What was set before is set again at
    the end; gradients go through what was heard.

    Args:
        model: a masked LM or a task model; its encoder may stand anywhere in it.
        layers: the layers to listen to, and the states in front of the first and behind each; all unless given.
        values: whether to keep the values of attention, too.

    Yields:
        What is heard, filled by the forward pass.

    Raises:
        ModelError: for an architecture whose attention we cannot reach.
    """
    family, encoder = family_of(model), encoder_of(model)
    tapped = Activations(pre_norm=family.pre_norm)
    wanted = range(len(layers_of(model))) if layers is None else layers
    config, before = encoder.config, encoder.config._attn_implementation
    with contextlib.ExitStack() as stack:
        hook = encoder.register_forward_hook(functools.partial(_keep_last, tapped))
        stack.callback(hook.remove)
        if family.maps:
            _listen_to_maps(encoder, family, tapped, wanted, stack)
        else:
            _register()
            config._attn_implementation = _NAME
            stack.callback(setattr, config, "_attn_implementation", before)
            _listen_to_queries(encoder, family, tapped, wanted, stack, values=values)
        yield tapped


def _listen_to_queries(
    encoder: Any,
    family: Family,
    tapped: Activations,
    wanted: Collection[int],
    stack: contextlib.ExitStack,
    *,
    values: bool,
) -> None:
    hook = encoder.embeddings.register_forward_hook(functools.partial(_keep_state, tapped, 0))
    stack.callback(hook.remove)
    for number in wanted:
        layer = encoder.get_submodule(family.layers)[number]
        hook = layer.register_forward_hook(functools.partial(_keep_state, tapped, number + 1))
        stack.callback(hook.remove)
        attention = layer.get_submodule(family.attention)
        attention._tap = functools.partial(_keep_queries, tapped, number, keep_values=values)
        stack.callback(delattr, attention, "_tap")


def _keep_last(tapped: Activations, _module: nn.Module, _inputs: Any, output: Any) -> None:
    tapped.last = output[0]


def _keep_state(
    tapped: Activations, number: int, _module: nn.Module, _inputs: Any, output: Any
) -> None:
    tapped.hidden[number] = output[0] if isinstance(output, tuple) else output


def _keep_queries(
    tapped: Activations,
    number: int,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    sliding_window: int | None,
    *,
    keep_values: bool,
) -> None:
    tapped.attention[number] = Attention(
        queries=queries,
        keys=keys,
        values=values if keep_values else None,
        scale=scale,
        # ModernBERT passes half its window plus one, for kernels that take bounds as exclusive.
        window=None if sliding_window is None else 2 * (sliding_window - 1),
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA, as transformers calls it, that lets a listener have the operands."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    listener: Callable[..., None] | None = getattr(module, "_tap", None)
    if listener is not None:
        listener(query, key, value, options["scaling"], options.get("sliding_window"))
    attended: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return attended


@functools.cache
def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
    # A function without a mask of its own would be called without any.
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, sdpa_mask)


def _listen_to_maps(
    encoder: Any,
    family: Family,
    tapped: Activations,
    wanted: Collection[int],
    stack: contextlib.ExitStack,
) -> None:
    # The convolution of some DeBERTa-v2 stands between two layers; the encoder's own list of states knows it.
    hook = encoder.encoder.register_forward_hook(
        functools.partial(_keep_states, tapped, {0, *(number + 1 for number in wanted)})
    )
    stack.callback(hook.remove)
    for number in wanted:
        attention = encoder.get_submodule(family.layers)[number].get_submodule(family.attention)
        for hook in (
            attention.register_forward_pre_hook(_ask_for_maps, with_kwargs=True),
            attention.register_forward_hook(functools.partial(_keep_maps, tapped, number)),
        ):
            stack.callback(hook.remove)


def _ask_for_maps(_module: nn.Module, inputs: Any, named: Any) -> Any:
    hidden, mask, *rest = inputs
    return (hidden, mask, True, *rest[1:]), {
        name: value for name, value in named.items() if name != "output_attentions"
    }


def _keep_maps(
    tapped: Activations, number: int, _module: nn.Module, _inputs: Any, output: Any
) -> None:
    tapped.attention[number] = Attention(maps=output[1])


def _keep_states(
    tapped: Activations, wanted: Collection[int], _module: nn.Module, _inputs: Any, output: Any
) -> None:
    states = output[1] if isinstance(output, tuple) else output.hidden_states
    tapped.hidden.update({number: states[number] for number in wanted})
