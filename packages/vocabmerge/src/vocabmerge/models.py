"""Takes rows out of a model's vocabulary: embeddings, head, head biases, and every id that the config names.

Works on models that are open; torch is imported late.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vocabmerge.config_ids import moved_lists, token_ids
from vocabmerge.errors import VocabularyError

if TYPE_CHECKING:
    import torch
    from torch import nn

UNREACHABLE_BIAS = -1e4
"""Head bias of a padding row: no softmax gives it any weight, and half precision can hold it."""


@dataclass(frozen=True, kw_only=True)
class VocabularyTensors:
    """The parameters of a model that have one row per piece, each once, however many names it has.

    Args:
        rows: how many rows they have; at least the number of pieces.
        embedding: input rows [rows, E].
        head: output rows [rows, E], None where the model has no head or ties it to the input rows.
        biases: head biases [rows]; BERT's and RoBERTa's are one parameter under two names, or two.
    """

    rows: int
    embedding: nn.Parameter
    head: nn.Parameter | None
    biases: tuple[nn.Parameter, ...]

    def __iter__(self) -> Iterator[nn.Parameter]:
        yield self.embedding
        if self.head is not None:
            yield self.head
        yield from self.biases


def vocabulary_tensors(model: Any) -> VocabularyTensors:
    """Find the parameters that have one row per piece, by the modules that hold them and never by their shape.

    Args:
        model: a transformers model, with or without a language-model head.

    Raises:
        VocabularyError: an encoder-decoder, or a model with a further table of the vocabulary's length.
    """
    from torch import nn

    # The config of an encoder taken out of an encoder-decoder may still say that it is one.
    decodes = any(name.rpartition(".")[2] == "decoder" for name, _ in model.named_modules())
    if getattr(model.config, "is_encoder_decoder", False) and decodes:
        raise VocabularyError(
            f"{type(model).__name__}: expected an encoder or a decoder, got an encoder-decoder; "
            "take its encoder alone"
        )
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise VocabularyError(
            f"{type(model).__name__}: expected an embedding table as input, got {type(embedding).__name__}"
        )
    rows = int(embedding.weight.shape[0])
    head = model.get_output_embeddings()
    biases: list[nn.Parameter] = []
    weight = None
    if head is not None:
        if _has_own_table(model, head, rows) and head.weight is not embedding.weight:
            weight = head.weight
        if weight is not None or head.weight is embedding.weight:
            biases.append(head.bias)
        biases.append(_holder(model, head)._parameters.get("bias"))
    unique = {id(bias): bias for bias in biases if bias is not None}
    tensors = VocabularyTensors(
        rows=rows,
        embedding=embedding.get_parameter("weight"),
        head=weight,
        biases=tuple(unique.values()),
    )
    for tensor in tensors:
        if tensor.shape[0] != rows:
            raise VocabularyError(
                f"{type(model).__name__}: expected {rows} rows in the head as in the embedding, "
                f"got {tensor.shape[0]}"
            )
    _refuse_further_tables(model, tensors)
    return tensors


def select_rows(model: Any, ids: Sequence[int], *, pad_to: int = 1) -> None:
    """Keep the given rows of the vocabulary, in the given order, in place; nothing else of the model changes.

    New row r is old row `ids[r]` [E], bit for bit, in embedding, head and head biases alike. Tied parameters stay
    tied, trainable ones trainable; `padding_idx`, the position offset of the RoBERTa family, `vocab_size` and
    every `…_token_id` of the config and the generation config follow; lists of pieces there, such as
    `suppress_tokens`, lose what goes.

    Args:
        model: a transformers model.
        ids: old ids [V_new], each at most once.
        pad_to: the number of rows is rounded up to a multiple of this with rows that no id reaches:
            zeros, with a head bias of -10,000; without a head bias the mean row, to which a softmax gives at
            most its mean, one part in V_new.

    Raises:
        VocabularyError: an id without a row, a repeated id, or a config id that would lose its row.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> model = BertForMaskedLM(BertConfig(vocab_size=9, hidden_size=4, num_attention_heads=1,
        ...                                    num_hidden_layers=1, intermediate_size=4))
        >>> select_rows(model, [0, 5, 7])
        >>> model.get_input_embeddings().weight.shape
        torch.Size([3, 4])
    """
    import torch

    tensors = vocabulary_tensors(model)
    new_of_old = {int(old): new for new, old in enumerate(ids)}
    if len(new_of_old) != len(ids):
        raise VocabularyError(
            f"expected each row once, got {len(ids) - len(new_of_old)} rows repeated"
        )
    stray = next((old for old in new_of_old if not 0 <= old < tensors.rows), None)
    if stray is not None:
        raise VocabularyError(
            f"{type(model).__name__}: id {stray} has no row, the embedding has {tensors.rows}; tokenizer and "
            "model are not of one make, or the model lost rows: rows beyond the vocabulary are legal, missing "
            "ones are not"
        )
    old_pad = model.get_input_embeddings().padding_idx
    moved = {
        name: {
            **moved_ids(token_ids_of(settings), new_of_old, tensors.rows, where=f"{type(model).__name__}: {name}."),
            **moved_lists(settings.to_dict(), new_of_old, tensors.rows)[0],
        }
        for name, settings in settings_of(model).items()
    }  # fmt: skip
    index = torch.as_tensor([int(old) for old in ids], dtype=torch.int64)
    rows = -(-len(ids) // pad_to) * pad_to
    replace_tensors(
        model,
        tensors,
        {
            id(t): padded_rows(
                t.detach(), rows, biased=bool(tensors.biases), ids=index.to(t.device)
            )
            for t in tensors
        },
    )
    for name, settings in settings_of(model).items():
        for setting, value in moved[name].items():
            setattr(settings, setting, value)
    if old_pad is not None:
        move_padding(model, old_pad, new_of_old.get(old_pad))


def replace_tensors(
    model: Any, tensors: VocabularyTensors, replacements: Mapping[int, torch.Tensor]
) -> None:
    """Put new values in the place of vocabulary parameters, under all their names, and set all sizes by them.

    Args:
        model: a transformers model.
        tensors: its `vocabulary_tensors`.
        replacements: by the id() of the old parameter, values [rows, …] of the new one.
    """
    from torch import nn

    parameters = {
        id(old): nn.Parameter(replacements[id(old)], requires_grad=old.requires_grad)
        for old in tensors
    }
    rows = int(parameters[id(tensors.embedding)].shape[0])
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in parameters:
                module._parameters[name] = parameters[id(parameter)]
                if name == "weight":
                    size = "num_embeddings" if isinstance(module, nn.Embedding) else "out_features"
                    setattr(module, size, rows)
        if getattr(module, "vocab_size", None) == tensors.rows:
            module.vocab_size = rows
    model.config.vocab_size = rows


def set_token_ids(model: Any, token_ids: Mapping[str, Any]) -> None:
    """Write `…_token_id` settings into the config and, where it has them, into the generation config."""
    for settings in settings_of(model).values():
        for name, value in token_ids.items():
            if getattr(settings, name, None) is not None:
                setattr(settings, name, copy.copy(value))


def move_padding(model: Any, old_pad: int, new_pad: int | None) -> None:
    """Give the padding piece its new id wherever a module holds it.

    The RoBERTa family counts positions from the padding id on, so that its position table moves along:
    new position `new_pad + 1 + j` is old position `old_pad + 1 + j`.
    """
    from torch import nn

    for module in model.modules():
        if getattr(module, "padding_idx", None) == old_pad and not isinstance(module, nn.Embedding):
            module.padding_idx = new_pad
    embedding = model.get_input_embeddings()
    embedding.padding_idx = new_pad
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx == old_pad != new_pad:
            if new_pad is None:
                raise VocabularyError("a model that counts positions from its padding id needs one")
            _shift_positions(model, module, table, new_pad)


def _shift_positions(model: Any, holder: Any, table: nn.Embedding, new_pad: int) -> None:
    import torch
    from torch import nn

    assert table.padding_idx is not None
    shift = new_pad - table.padding_idx
    old = table.weight.detach()
    values = (
        old[-shift:].clone() if shift < 0 else torch.cat([old.new_zeros(shift, old.shape[1]), old])
    )
    table.weight = nn.Parameter(values, requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(values)
    table.padding_idx = new_pad
    for name, buffer in list(holder._buffers.items()):
        if name == "position_ids":
            holder._buffers[name] = torch.arange(len(values), device=buffer.device)[None]
        elif name == "token_type_ids":
            holder._buffers[name] = buffer.new_zeros(1, len(values))
    model.config.max_position_embeddings = len(values)


def padded_rows(
    table: torch.Tensor, rows: int, *, biased: bool, ids: torch.Tensor | None = None
) -> torch.Tensor:
    """The table [V, …], or some rows of it, with further rows, up to `rows`, that are not predicted.

    Args:
        table: a vocabulary table or a head bias.
        rows: how many it shall have.
        biased: whether the head has a bias, which then keeps the rows from being predicted. Without one they are the
            mean row: its logit is the mean logit, whose exponential is at most the mean of the exponentials. A row
            of zeros would have the logit 0, the greatest of all where a model's logits are negative.
        ids: the rows to take, by default all.
    """
    import torch

    count = len(table) if ids is None else len(ids)
    new = table.new_empty((rows, *table.shape[1:]))
    if ids is None:
        new[:count] = table
    else:
        torch.index_select(table, 0, ids, out=new[:count])
    if table.dim() == 1:
        new[count:] = UNREACHABLE_BIAS
    elif biased or count in (0, rows):
        new[count:] = 0.0
    else:
        new[count:] = new[:count].float().mean(dim=0).to(new.dtype)
    return new


def _has_own_table(model: Any, head: Any, rows: int) -> bool:
    """Whether the head module holds vocabulary rows.

    The newer DeBERTa head multiplies with the input embedding and reports its transform as output embedding.
    """
    newer_deberta = "deberta" in str(model.config.model_type) and not getattr(
        model.config, "legacy", True
    )
    return not newer_deberta and head.weight.shape[0] == rows


def _holder(model: Any, part: Any) -> Any:
    """The module that has `part` as a direct child."""
    return next(m for m in model.modules() if any(child is part for child in m.children()))


def _refuse_further_tables(model: Any, tensors: VocabularyTensors) -> None:
    from torch import nn

    known = {id(tensor) for tensor in tensors}
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Embedding)
            and id(module.weight) not in known
            and module.num_embeddings == tensors.rows
            and tensors.rows > max(2, getattr(model.config, "max_position_embeddings", 0) or 0)
        ):
            raise VocabularyError(
                f"{type(model).__name__}: {name} is a further table of {tensors.rows} rows, and what it means "
                "for the vocabulary is not known here"
            )


def moved_ids(
    settings: Mapping[str, Any], new_of_old: Mapping[int, int], rows: int, *, where: str
) -> dict[str, Any]:
    """New values of settings that name ids.

    Args:
        settings: an id or a list of ids by the setting's name.
        new_of_old: the new id of each kept one.
        rows: how many rows there were. What named none of them (-1, beyond the vocabulary) stays; a setting of nothing else
            is not in the result.
        where: what stands before a setting's name in messages.

    Raises:
        VocabularyError: a setting names a row that would be dropped.
    """
    moved: dict[str, Any] = {}
    for setting, value in settings.items():
        ids = value if isinstance(value, list) else [value]
        named = {old for old in ids if old is not None and 0 <= old < rows}
        if not named:
            continue
        lost = [old for old in ids if old in named and old not in new_of_old]
        if lost:
            raise VocabularyError(
                f"{where}{setting} is {value!r} and row {lost[0]} would be dropped; keep it"
            )
        new = [new_of_old[old] if old in named else old for old in ids]
        moved[setting] = new if isinstance(value, list) else new[0]
    return moved


def token_ids_of(settings: Any) -> dict[str, Any]:
    """Every `…_token_id` that a config or generation config sets: an int or a list of ints."""
    return token_ids(settings.to_dict())


def settings_of(model: Any) -> dict[str, Any]:
    """The config of a model and, where it has one, its generation config, by the names that they have there."""
    generation = getattr(model, "generation_config", None)
    return {"config": model.config} | ({} if generation is None else {"generation_config": generation})  # fmt: skip
