"""Nodes of an exported graph bear the path of the module that they come from; which layer of a model that is."""

from __future__ import annotations

import ast
import re
from typing import Any

_SCOPES = "pkg.torch.onnx.name_scopes"
_NUMBERED = re.compile(r"(?:^|[._])(?:layers?|blocks?|h)\.(\d+)\.(.*)")
_ATTENTION = re.compile(r"att(?:entio)?n")


def name_nodes(model: Any) -> None:
    """Put before each node's name the path of its module, as in `encoder.layer.0.output.dense/node_MatMul_128`.

    Args:
        model: what torch's exporter made, with its notes of modules still on the nodes; it is changed.
    """
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        if node.name and len(scopes) > 1 and scopes[-2]:  # the last one is the operation
            node.name = f"{scopes[-2]}/{node.name}"


def layers_of_node(name: str) -> tuple[str, ...]:
    """The groups that a matrix product belongs to, the widest first: `layer 3` and `layer 3 attention`, or `head`.

    Example:
        >>> layers_of_node("model.encoder.layer.3.output.dense/node_MatMul_128")
        ('layer 3', 'layer 3 feed-forward')
    """
    path, slash, _ = name.rpartition("/")
    if not slash:
        return ("other",)
    if numbered := _NUMBERED.search(path):
        layer = f"layer {numbered[1]}"
        attention = _ATTENTION.search(numbered[2])
        return layer, f"{layer} {'attention' if attention else 'feed-forward'}"
    for part in ("pooler", "embeddings"):
        if part in path:
            return (part,)
    return ("head",)
