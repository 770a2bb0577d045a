"""Embedding tables of an ONNX graph in eight bits with a scale for each row, or in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.errors import ExportError

_FEWEST_ROWS = 16  # a table of token types has two rows: nothing is gained there
_TINY = np.finfo(np.float32).tiny


def quantise_rows(
    table: NDArray[np.float32], *, per_tensor: bool = False, largest: int = 127
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers q = round(x / s), where a row's scale s is its largest absolute value over `largest`, so that |x - s q| <= s / 2.

    Args:
        table: [V, H].
        per_tensor: whether all rows share one scale, that of the largest value of all.
        largest: whole number.

    Returns:
        q [V, H] and s [V, 1].

    Raises:
        ExportError: for a row with a value that is not finite.
    """
    reach = np.maximum(table.max(axis=1), -table.min(axis=1))
    if not np.isfinite(reach).all():
        raise ExportError(
            f"Row {int(np.argmin(np.isfinite(reach)))} of an embedding table holds a value that is no finite number, so that no scale "
            "fits it; look at the weights of the model."
        )
    if per_tensor:
        reach = np.full_like(reach, reach.max(initial=0))
    scales = np.maximum(reach / np.float32(largest), _TINY)[:, None].astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


class RowTables:
    """The embedding tables of a graph in memory: float matrices that nodes take rows of.

    Args:
        model: an ONNX model; it is changed.
    """

    def __init__(self, model: Any) -> None:
        from onnx import TensorProto

        self._graph = model.graph
        self._users: dict[str, list[Any]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._tables = {
            weight.name: weight
            for weight in self._graph.initializer
            if weight.data_type == TensorProto.FLOAT
            and len(weight.dims) == 2
            and weight.dims[0] >= _FEWEST_ROWS
            and self._is_table(weight.name)
        }

    def tied_products(self) -> Iterator[Any]:
        """The matrix products with a transposed table: logits of a masked LM over its own embedding."""
        for name in self._tables:
            for node in self._users[name]:
                if node.op_type == "Transpose":
                    yield from self._users[node.output[0]]

    def to_half(self) -> None:
        """Store the tables in half precision; rows are float32 again once they are taken.

        Raises:
            ExportError: for a value beyond half precision.
        """
        for name, table in self._arrays():
            with np.errstate(over="ignore"):
                half = table.astype(np.float16)
            if not np.isfinite(half).all():
                raise ExportError(
                    f"The embedding table {name!r} holds values beyond half precision (65,504); keep it in float32 or in "
                    "eight bits with a scale for each row."
                )
            weights = self._store(f"{name}_half", half)
            self._take_rows(name, weights, None)
            self._transposed(name, weights, None)

    def to_int8(self, *, per_tensor: bool, reduced: bool, float_products: frozenset[str]) -> None:
        """Store the tables as whole numbers and scales.

        A product with a transposed table shares the table: its activations become eight bits as they come.

        Args:
            per_tensor: one scale for a table instead of one for each row.
            reduced: whether a table that a product shares has seven bits.
            float_products: names of products whose activations stay in float.
        """
        for name, table in self._arrays():
            shared = any(node.op_type == "Transpose" for node in self._users[name])
            codes, scales = quantise_rows(
                table, per_tensor=per_tensor, largest=64 if reduced and shared else 127
            )
            weights = self._store(f"{name}_quantized", codes)
            factors = self._store(f"{name}_scale", scales)
            self._take_rows(name, weights, factors)
            self._transposed(name, weights, factors, float_products)

    def _is_table(self, name: str) -> bool:
        """Whether rows are taken of it, and nothing else is done with it that cannot be done in eight bits."""
        users = self._users.get(name, [])
        return any(node.op_type == "Gather" for node in users) and all(
            (_takes_rows(node) and node.input[0] == name)
            or (
                node.op_type == "Transpose"
                and all(
                    user.op_type == "MatMul" and user.input[1] == node.output[0]
                    for user in self._users.get(node.output[0], [])
                )
            )
            for node in users
        )

    def _arrays(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        from onnx import numpy_helper

        for name, weight in self._tables.items():
            yield name, numpy_helper.to_array(weight)
            self._graph.initializer.remove(weight)

    def _store(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _take_rows(self, table: str, weights: str, factors: str | None) -> None:
        for node in self._users[table]:
            if node.op_type != "Gather":
                continue
            rows, out = f"{node.name}_rows", node.output[0]
            nodes = [_node("Gather", [weights, node.input[1]], rows)]
            if factors is None:
                nodes.append(_to_float(rows, out))
            else:
                nodes += [
                    _node("Gather", [factors, node.input[1]], f"{node.name}_scales"),
                    _to_float(rows, f"{rows}_float"),
                    _node("Mul", [f"{rows}_float", f"{node.name}_scales"], out),
                ]
            self._replace(node, nodes)

    def _transposed(
        self,
        table: str,
        weights: str,
        factors: str | None,
        float_products: frozenset[str] = frozenset(),
    ) -> None:
        for turn in self._users[table]:
            if turn.op_type != "Transpose":
                continue
            turned = f"{turn.name}_weights"
            nodes = [_node("Transpose", [weights], turned, perm=[1, 0])]
            if factors is not None:
                nodes.append(_node("Transpose", [factors], f"{turn.name}_scales", perm=[1, 0]))
            self._replace(turn, nodes)
            for product in self._users[turn.output[0]]:
                scales = None if factors is None else f"{turn.name}_scales"
                if scales and product.name not in float_products:
                    self._replace(product, _integer_product(product, turned, scales))
                else:
                    self._replace(product, _float_product(product, turned, scales))

    def _replace(self, node: Any, nodes: list[Any]) -> None:
        place = list(self._graph.node).index(node)
        self._graph.node.remove(node)
        for offset, new in enumerate(nodes):
            self._graph.node.insert(place + offset, new)


def _takes_rows(node: Any) -> bool:
    return node.op_type == "Gather" and not any(
        attribute.name == "axis" and attribute.i != 0 for attribute in node.attribute
    )


def _integer_product(node: Any, weights: str, scales: str) -> list[Any]:
    """As onnxruntime's own dynamic quantisation writes it, which its sessions fuse."""
    from onnx import helper

    codes, step, zero = (f"{node.name}_{part}" for part in ("codes", "step", "zero"))
    whole, both = f"{node.name}_whole", f"{node.name}_factor"
    return [
        helper.make_node("DynamicQuantizeLinear", [node.input[0]], [codes, step, zero], name=codes),
        _node("MatMulInteger", [codes, weights, zero], whole),
        _to_float(whole, f"{whole}_float"),
        _node("Mul", [step, scales], both),
        _node("Mul", [f"{whole}_float", both], node.output[0]),
    ]


def _float_product(node: Any, weights: str, scales: str | None) -> list[Any]:
    """With weights that sessions make float once, when they open."""
    floats = f"{node.name}_weights"
    nodes = [_to_float(weights, floats)]
    if scales is not None:
        nodes.append(_node("Mul", [floats, scales], f"{floats}_scaled"))
        floats = f"{floats}_scaled"
    return [*nodes, _node("MatMul", [node.input[0], floats], node.output[0])]


def _to_float(value: str, out: str) -> Any:
    return _node("Cast", [value], out, to=1)


def _node(operation: str, inputs: list[str], out: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operation, inputs, [out], name=f"{out}/{operation}", **attributes)
