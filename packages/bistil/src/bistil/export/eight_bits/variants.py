"""A float32 ONNX file in eight bits: how embedding tables and matrix products are stored, and which layers stay in float."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bistil.errors import ExportError
from bistil.export.eight_bits.row_tables import RowTables
from bistil.export.graph.large_files import is_large, weights_beside
from bistil.export.graph.layer_names import layers_of_node
from bistil.export.silence import silence
from teacherzoo.atomic_write import temporary_beside

_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a graph is stored.

    Attributes:
        embeddings: tables, position embeddings included: in float32, in half precision, or in whole numbers of eight bits with a scale
            for each row.
        weights: of matrix products with constants: in float32; in eight bits with a scale for each column, and activations in eight
            bits with a scale for a tensor as they come; or in eight bits with a scale for each block of 32 weights, where activations
            have one for a block, too: much nearer to float32, and slower.
        reduce_range: whether `int8` weights have seven bits, so that sums of two products never leave the sixteen bits that x86
            processors without VNNI add them in.
        float_layers: groups of `layers_of` whose products stay in float.
        per_tensor: one scale for all of a tensor, tables included, instead of one for each row or column: what onnxruntime does
            unless told otherwise, and what outliers ruin.
    """

    embeddings: Literal["float32", "float16", "int8"] = "int8"
    weights: Literal["float32", "int8", "int8 blocks"] = "int8"
    reduce_range: bool = False
    float_layers: tuple[str, ...] = ()
    per_tensor: bool = False

    @property
    def name(self) -> str:
        """In a few words, for tables and messages."""
        scale = {"int8": "per tensor" if self.per_tensor else "per column", "int8 blocks": "by blocks"}  # fmt: skip
        rows = "per tensor" if self.per_tensor else "by row"
        parts = [
            f"embeddings int8 {rows}" if self.embeddings == "int8" else f"embeddings {self.embeddings}",
            "weights float32" if self.weights == "float32" else f"weights int8 {scale[self.weights]}",
        ]  # fmt: skip
        if self.reduce_range:
            parts.append("seven bits")
        if self.float_layers:
            parts.append(f"in float: {', '.join(self.float_layers)}")
        return "; ".join(parts)


def layers_of(float32: Path) -> tuple[str, ...]:
    """The groups of matrix products that `Variant.float_layers` may name, in the order of the graph.

    Args:
        float32: a file by `write_float`.

    Returns:
        Such as `layer 0`, `layer 0 attention`, `layer 0 feed-forward`, `head`.
    """
    import onnx

    model = onnx.load(float32, load_external_data=False)
    return tuple(
        dict.fromkeys(group for node in _products(model) for group in layers_of_node(node.name))
    )


def write_variant(float32: Path, out: Path, variant: Variant) -> None:
    """Write a graph once more, as a variant says; the same variant of the same file has the same bytes.

    Args:
        float32: a file by `write_float`.
        out: to write; weights beyond 2 GiB lie beside it, in a file of its name and `_data`.
        variant: how.

    Raises:
        ExportError: for a layer that the graph does not have, or weights that are no finite numbers.
    """
    import onnx

    model = onnx.load(float32)
    in_float = _in_float(model, variant, float32)
    tables = RowTables(model)
    if variant.weights != "int8":
        in_float |= {node.name for node in tables.tied_products()}
    if variant.embeddings == "float16":
        tables.to_half()
    elif variant.embeddings == "int8":
        tables.to_int8(
            per_tensor=variant.per_tensor,
            reduced=variant.reduce_range,
            float_products=frozenset(in_float),
        )
    with temporary_beside(out) as folder:
        folder.mkdir()
        if variant.weights == "int8":
            _save(model, folder / "tables.onnx")
            del model
            model = _by_column(folder / "tables.onnx", variant, in_float)
        elif variant.weights == "int8 blocks":
            model = _by_blocks(model, in_float)
        _save(model, folder / out.name)
        weights = weights_beside(folder / out.name)
        if weights.exists():
            weights.replace(weights_beside(out))
        else:
            weights_beside(out).unlink(missing_ok=True)  # of an earlier, larger one
        (folder / out.name).replace(out)


def _products(model: Any) -> list[Any]:
    """Matrix products with weights, those with a transposed embedding table included."""
    constant = {weight.name for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in constant:
            constant.add(node.output[0])
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constant]  # fmt: skip


def _in_float(model: Any, variant: Variant, float32: Path) -> set[str]:
    """Names of the products that stay in float."""
    groups = {node.name: layers_of_node(node.name) for node in _products(model)}
    known = dict.fromkeys(group for names in groups.values() for group in names)
    if unknown := [layer for layer in variant.float_layers if layer not in known]:
        raise ExportError(
            f"{float32}: it has no {unknown[0]!r} that could stay in float; its groups of layers are: {', '.join(known)}."
        )
    return {node for node, names in groups.items() if set(names) & set(variant.float_layers)}


def _by_column(file: Path, variant: Variant, in_float: set[str]) -> Any:
    import onnx
    from onnxruntime import quantization

    out = file.with_name("columns.onnx")
    with silence():
        quantization.quantize_dynamic(
            file,
            out,
            op_types_to_quantize=["MatMul"],
            per_channel=not variant.per_tensor,
            reduce_range=variant.reduce_range,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=sorted(in_float),
            use_external_data_format=weights_beside(file).exists(),
        )
    return onnx.load(out)


def _by_blocks(model: Any, in_float: set[str]) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with silence():
        quantiser = MatMulNBitsQuantizer(
            model,
            bits=8,
            block_size=_BLOCK,
            is_symmetric=True,
            accuracy_level=4,  # activations in eight bits
            nodes_to_exclude=sorted(in_float),
            op_types_to_quantize=("MatMul",),
        )
        quantiser.process()
    return quantiser.model.model


def _save(model: Any, file: Path) -> None:
    import onnx

    large = is_large(sum(len(weight.raw_data) for weight in model.graph.initializer))
    beside = weights_beside(file)
    onnx.save_model(
        model,
        file,
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        location=beside.name,
    )
    if large:
        beside.chmod(0o644)  # it was made for this user alone
