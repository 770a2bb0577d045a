"""What is known of each architecture, in one table: where its parts lie and how they differ from BERT's.

Everything that must know an architecture reads it here: heads are split, layers copied, attention captured and students made
narrower by these facts alone. A new architecture is one more entry. Paths are those of `torch.nn.Module.get_submodule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from teacherzoo.errors import TeacherError

Architecture = Literal[
    "modernbert",
    "bert",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "distilbert",
    "albert",
    "electra",
    "deberta-v2",
    "eurobert",
]
"""Those that are also made from scratch."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A masked-LM head: logits = decoder(transform(hidden)); paths are below the model.

    Attributes:
        transform: what stands between the encoder and the decoder, first to last; "gelu" is the function.
        decoder: whose `weight` [V, H'] multiplies.
        bias: a parameter [V] that is not the decoder's.
    """

    transform: tuple[str, ...] = ()
    decoder: str
    bias: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture. The defaults are BERT's.

    Attributes:
        heads: of its masked LM; where there are several, a model has the first whose decoder is there.
        embeddings: path below the encoder of what returns hidden state 0.
        layers: path below the encoder of the list of layers; None where one layer is used over and over.
        attention: path below a layer of the module that calls transformers' attention function.
        query: path below a layer of the linear map to queries.
        key: of that to keys.
        value: of that to values; all three are one path where one matrix makes all.
        output: of the linear map behind all heads.
        up: paths below a layer of the maps into the feed-forward layer: one, or two where one of them gates the other.
        down: of the map out of it.
        fused_gate: whether `up` is one matrix, whose first half makes units and whose second makes their gates.
        norm: what its norms are: centred and scaled, or scaled alone.
        final_norm: path below the encoder of the norm behind the last layer of a pre-norm encoder.
        first_layer_pinned: why the first layer cannot be another; empty where it can.
        positions: how places are told: by a table, by one whose rows count from the padding id on, by turning queries
            and keys, or by relative parts of the scores.
        grouped_queries: whether several heads may share keys and values.
        depth: name of the number of layers in its configuration.
        width: of the width of hidden states.
        embedding_width: of the width of the embeddings, where it may be another.
        attention_heads: of the number of query heads.
        inner: of the width of the feed-forward layers.
        dropouts: of the probabilities that act in the encoder.
        from_scratch: what else a fresh configuration must say.
        unreached: why its attention cannot be captured; empty where it can.
    """

    heads: tuple[Head, ...]
    embeddings: str = "embeddings"
    layers: str | None = "encoder.layer"
    attention: str = "attention.self"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    output: str = "attention.output.dense"
    up: tuple[str, ...] = ("intermediate.dense",)
    down: str = "output.dense"
    fused_gate: bool = False
    norm: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    final_norm: str | None = None
    first_layer_pinned: str = ""
    positions: Literal["table", "table after padding", "rotary", "relative"] = "table"
    grouped_queries: bool = False
    depth: str = "num_hidden_layers"
    width: str = "hidden_size"
    embedding_width: str | None = None
    attention_heads: str = "num_attention_heads"
    inner: str = "intermediate_size"
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    from_scratch: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unreached: str = ""

    @property
    def pre_norm(self) -> bool:
        """Whether hidden states are sums that no norm has bounded."""
        return self.final_norm is not None

    @property
    def needs_maps(self) -> bool:
        """Whether scores are more than products of queries and keys, so that maps alone tell what is attended to."""
        return self.positions == "relative"

    @property
    def gated(self) -> bool:
        """Whether feed-forward units are multiplied by gates."""
        return self.fused_gate or len(self.up) == 2

    @property
    def fixed_width(self) -> str:
        """Why its heads, and with them its hidden states, cannot be made narrower; empty where they can."""
        if self.positions == "rotary":
            return "its rotary embedding turns pairs of a head's units at speeds that a narrower head does not have"
        if self.positions == "relative":
            return "its heads read relative positions through the same maps, which cannot serve both once they are cut"
        if self.grouped_queries:
            return "several of its heads share keys, which cannot be cut for each of them alone"
        if self.norm == "RMSNorm":
            return "its norms have no offset, by which a norm over fewer units is fitted"
        return ""


def _dense_head(path: str, *, activation: str, norm: str) -> Head:
    steps = tuple(f"{path}.{step}" for step in ("dense", activation, norm))
    return Head(transform=steps, decoder=f"{path}.decoder")


_BERT_HEAD = Head(transform=("cls.predictions.transform",), decoder="cls.predictions.decoder")
_NEW_DEBERTA_HEAD = Head(  # multiplies by the input embeddings
    transform=tuple(
        f"lm_predictions.lm_head.{step}" for step in ("dense", "transform_act_fn", "LayerNorm")
    ),
    decoder="deberta.embeddings.word_embeddings",
    bias="lm_predictions.lm_head.bias",
)
_BERT = Family(heads=(_BERT_HEAD,))
_ROBERTA = Family(
    heads=(Head(transform=("lm_head.dense", "gelu", "lm_head.layer_norm"), decoder="lm_head.decoder"),),
    positions="table after padding",
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        heads=(Head(transform=("vocab_transform", "activation", "vocab_layer_norm"), decoder="vocab_projector"),),
        layers="transformer.layer",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up=("ffn.lin1",),
        down="ffn.lin2",
        depth="n_layers",
        width="dim",
        attention_heads="n_heads",
        inner="hidden_dim",
        dropouts=("dropout", "attention_dropout"),
    ),
    "modernbert": Family(
        heads=(Head(transform=("head",), decoder="decoder"),),
        layers="layers",
        attention="attn",
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        output="attn.Wo",
        up=("mlp.Wi",),
        down="mlp.Wo",
        fused_gate=True,
        final_norm="final_norm",
        first_layer_pinned="has no norm before its attention",
        positions="rotary",
        dropouts=("embedding_dropout", "mlp_dropout", "attention_dropout"),
    ),
    "deberta-v2": Family(
        heads=(_BERT_HEAD, _NEW_DEBERTA_HEAD),
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        positions="relative",
        from_scratch={"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 32},
    ),
    "xlm-roberta-xl": replace(_ROBERTA, final_norm="encoder.LayerNorm"),
    "eurobert": Family(
        heads=(Head(decoder="lm_head"),),
        embeddings="embed_tokens",
        layers="layers",
        attention="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        up=("mlp.gate_proj", "mlp.up_proj"),
        down="mlp.down_proj",
        norm="RMSNorm",
        final_norm="norm",
        positions="rotary",
        grouped_queries=True,
        dropouts=("attention_dropout",),
    ),
    "albert": Family(
        heads=(_dense_head("predictions", activation="activation", norm="LayerNorm"),),
        layers=None,
        embedding_width="embedding_size",
        unreached="its layers are one, used over and over, so that none can be left out",
    ),
    "electra": Family(
        heads=(Head(transform=("generator_predictions",), decoder="generator_lm_head"),),
        embedding_width="embedding_size",
        unreached="its masked LM is the generator, a fraction of the model that one fine-tunes",
    ),
    "deberta": Family(
        heads=(_BERT_HEAD, _NEW_DEBERTA_HEAD),
        positions="relative",
        unreached="it makes queries, keys and values by one matrix in code of its own",
    ),
    "mpnet": replace(
        _ROBERTA, unreached="it adds relative positions to its scores in code of its own"
    ),
    "rembert": Family(
        heads=(_dense_head("cls.predictions", activation="activation", norm="LayerNorm"),),
        embedding_width="input_embedding_size",
        unreached="it attends in code of its own, which gives its queries and keys to nobody",
    ),
}  # fmt: skip


def known_family(config: Any) -> Family:
    """The entry of a model's configuration.

    Raises:
        TeacherError: for an architecture that is not in the table.
    """
    if config.model_type not in FAMILIES:
        raise TeacherError(
            f"A {config.model_type!r} model is of no architecture known here; known are {', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[config.model_type]


def longest_row(config: Any) -> int | None:
    """Tokens that a model reads at most, as far as its configuration tells; None where it does not.

    Args:
        config: of a model of the table, or any with `max_position_embeddings`.

    Example:
        >>> from types import SimpleNamespace
        >>> longest_row(SimpleNamespace(model_type="xlm-roberta", max_position_embeddings=514, pad_token_id=1))
        512
    """
    rows = getattr(config, "max_position_embeddings", None)
    family = FAMILIES.get(config.model_type)
    if rows is None or family is None or family.positions != "table after padding":
        return rows
    return int(rows - config.pad_token_id - 1)
