"""Capturing what an encoder's forward pass computes: hidden states, and the queries and keys that attention multiplies."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import ModelError
from teacherzoo.encoders.families import FAMILIES, Family
from teacherzoo.encoders.layers import list_of_layers

_NAME = "bistil_capture"  # of the attention function that transformers calls in place of its own


@dataclass(frozen=True)
class Attention:
    """What one layer attended by: queries and keys, or the maps themselves where these do not tell all.

    The map of a head is softmax(scale · Q Kᵀ) over the keys inside the window.

    Attributes:
        queries: [B, h, S, d], after rotary embedding; None with `maps`.
        keys: as `queries`; what several heads share is there for each of them.
        values: as `keys`, if asked for.
        scale: factor of the products.
        window: width of local attention, None where it is global.
        maps: [B, h, S, S] after the softmax, of families whose scores have relative parts (DeBERTa-v2 and v3).
    """

    queries: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    scale: float = 1.0
    window: int | None = None
    maps: Tensor | None = None

    def of_heads(self, heads: Sequence[int]) -> Attention:
        """The same of these heads alone."""
        tensors: dict[str, Any] = {
            name: tensor[:, list(heads)]
            for name, tensor in vars(self).items()
            if isinstance(tensor, Tensor)
        }
        return replace(self, **tensors)


@dataclass
class Activations:
    """What one forward pass computed.

    Attributes:
        hidden: [B, S, H] by number: 0 behind the embeddings, j behind layer j - 1.
        attention: by layer, from 0.
        last: [B, S, H] what the encoder returned, behind a final norm where it has one.
        pre_norm: whether hidden states are sums that no norm has bounded (ModernBERT, EuroBERT, XLM-R XL).
    """

    pre_norm: bool = False
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Attention] = field(default_factory=dict)
    last: Tensor | None = None


def family_of(model: nn.Module) -> Family:
    """The entry of a model's encoder in the table of architectures.

    Raises:
        ModelError: for an architecture whose attention cannot be reached, with the reason.
    """
    kind = encoder_of(model).config.model_type
    family = FAMILIES.get(kind)
    if family is None or family.unreached:
        reason = f", for {family.unreached}" if family is not None else ""
        reached = [name for name, known in FAMILIES.items() if not known.unreached]
        raise ModelError(
            f"{type(model).__name__}: the attention of a {kind!r} model cannot be reached{reason}; the families are "
            f"{', '.join(reached)}."
        )
    return family


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
    """The encoder's layers, first to last.

    Raises:
        ModelError: see `family_of`.
    """
    family_of(model)
    layers: nn.ModuleList = list_of_layers(encoder_of(model))
    return layers


@contextlib.contextmanager
def capture_activations(
    model: nn.Module, *, layers: Collection[int] | None = None, values: bool = False
) -> Iterator[Activations]:
    """Keep hidden states, queries and keys of the next forward pass of `model`, which runs on SDPA attention meanwhile.

    Loss terms on attention maps [B, h, S, S] are computed from queries and keys, tile by tile, so that no map is made; only
    of DeBERTa-v2 and v3, whose scores are more than products, the eager maps are kept. Hooks and the attention
    implementation are as before at the end; gradients go through what was captured.

    Args:
        model: a masked LM or a task model; its encoder may stand anywhere in it.
        layers: the layers to capture, and the states in front of the first and behind each; all unless given.
        values: whether to keep the values of attention, too.

    Yields:
        The activations, filled by the forward pass.

    Raises:
        ModelError: for an architecture whose attention cannot be reached.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
        >>> model = BertForMaskedLM(BertConfig(vocab_size=50, **sizes))
        >>> with capture_activations(model, layers=[1]) as activations:
        ...     _ = model(input_ids=torch.arange(12).view(3, 4))
        >>> activations.hidden[2].shape, activations.attention[1].queries.shape
        (torch.Size([3, 4, 8]), torch.Size([3, 2, 4, 4]))
    """
    family, encoder = family_of(model), encoder_of(model)
    activations = Activations(pre_norm=family.pre_norm)
    numbers = range(len(layers_of(model))) if layers is None else layers
    with contextlib.ExitStack() as stack:
        hook = encoder.register_forward_hook(functools.partial(_keep_last, activations))
        stack.callback(hook.remove)
        if family.needs_maps:
            _capture_maps(encoder, activations, numbers, stack)
        else:
            _register()
            stack.callback(
                setattr, encoder.config, "_attn_implementation", encoder.config._attn_implementation
            )
            encoder.config._attn_implementation = _NAME
            _capture_operands(encoder, activations, numbers, stack, values=values)
        yield activations


def _capture_operands(
    encoder: Any,
    activations: Activations,
    numbers: Collection[int],
    stack: contextlib.ExitStack,
    *,
    values: bool,
) -> None:
    family, layers = family_of(encoder), layers_of(encoder)
    keep = functools.partial(_keep_state, activations, 0)
    stack.callback(encoder.get_submodule(family.embeddings).register_forward_hook(keep).remove)
    for number in numbers:
        keep = functools.partial(_keep_state, activations, number + 1)
        stack.callback(layers[number].register_forward_hook(keep).remove)
        attention: Any = layers[number].get_submodule(family.attention)
        attention._keep_operands = functools.partial(
            _keep_operands, activations, number, keep_values=values
        )
        stack.callback(delattr, attention, "_keep_operands")


def _keep_last(activations: Activations, _module: nn.Module, _inputs: Any, output: Any) -> None:
    activations.last = output[0]


def _keep_state(
    activations: Activations, number: int, _module: nn.Module, _inputs: Any, output: Any
) -> None:
    activations.hidden[number] = output[0] if isinstance(output, tuple) else output


def _keep_operands(
    activations: Activations,
    number: int,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    sliding_window: int | None,
    *,
    keep_values: bool,
) -> None:
    heads = queries.shape[1]
    activations.attention[number] = Attention(
        queries=queries,
        keys=_for_each_head(keys, heads),
        values=_for_each_head(values, heads) if keep_values else None,
        scale=scale,
        # ModernBERT passes half its window plus one, for kernels that take bounds as exclusive.
        window=None if sliding_window is None else 2 * (sliding_window - 1),
    )


def _for_each_head(shared: Tensor, heads: int) -> Tensor:
    """Keys or values [B, g, S, d] of groups of heads, repeated as [B, h, S, d]."""
    groups = shared.shape[1]
    return shared if groups == heads else shared.repeat_interleave(heads // groups, dim=1)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA, as transformers calls it, that hands on its operands."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    keep: Callable[..., None] | None = getattr(module, "_keep_operands", None)
    if keep is not None:
        keep(query, key, value, options["scaling"], options.get("sliding_window"))
    half = query.dtype in (torch.bfloat16, torch.float16)
    if query.device.type != "cpu" or not half or not query.requires_grad:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return attended
    # On a processor the backward pass of SDPA is several times slower in half precision than in single.
    whole = (tensor.float() for tensor in (query, key, value))
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast("cpu", enabled=False):
        exact, _ = sdpa_attention_forward(module, *whole, attention_mask, **options)
    return exact.to(query.dtype), None


@functools.cache
def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
    # A function without a mask of its own would be called without any.
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, sdpa_mask)


def _capture_maps(
    encoder: Any,
    activations: Activations,
    numbers: Collection[int],
    stack: contextlib.ExitStack,
) -> None:
    family, layers = family_of(encoder), layers_of(encoder)
    # The convolution of some DeBERTa-v2 stands between two layers; the encoder's own list of states knows it.
    keep = functools.partial(_keep_states, activations, {0, *(number + 1 for number in numbers)})
    stack.callback(encoder.encoder.register_forward_hook(keep).remove)
    for number in numbers:
        attention = layers[number].get_submodule(family.attention)
        for hook in (
            attention.register_forward_pre_hook(_ask_for_maps, with_kwargs=True),
            attention.register_forward_hook(functools.partial(_keep_maps, activations, number)),
        ):
            stack.callback(hook.remove)


def _ask_for_maps(_module: nn.Module, inputs: Any, named: Any) -> Any:
    hidden, mask, *rest = inputs
    return (hidden, mask, True, *rest[1:]), {
        name: value for name, value in named.items() if name != "output_attentions"
    }


def _keep_maps(
    activations: Activations, number: int, _module: nn.Module, _inputs: Any, output: Any
) -> None:
    activations.attention[number] = Attention(maps=output[1])


def _keep_states(
    activations: Activations,
    numbers: Collection[int],
    _module: nn.Module,
    _inputs: Any,
    output: Any,
) -> None:
    states = output[1] if isinstance(output, tuple) else output.hidden_states
    activations.hidden.update({number: states[number] for number in numbers})
