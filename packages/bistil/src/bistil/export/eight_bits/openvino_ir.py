"""A graph in the form that OpenVINO reads, in float32 and in eight bits calibrated on text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bistil.errors import ExportError
from bistil.export.eight_bits.variants import Variant, layers_of
from bistil.export.graph.layer_names import layers_of_node
from bistil.export.graph.session import Arrays, columns_for, import_openvino, missing_library
from bistil.export.silence import silence
from teacherzoo.atomic_write import temporary_beside

FLOAT, INT8 = "openvino/openvino_model.xml", "openvino/openvino_model_qint8_quantized.xml"
"""Where optimum-intel and sentence-transformers look for them."""
UNCALIBRATED = "OpenVINO's eight bits are calibrated on text: give --text LANGUAGE=FILE in the languages that the model will read."
_NEEDED_BY = "--for openvino"


@dataclass(frozen=True, kw_only=True)
class OpenVinoVariant(Variant):
    """How a graph of OpenVINO is stored.

    Attributes:
        weights: `int8`, in eight bits with a scale for each column, and activations in eight bits with scales that text was asked for;
            `int8 blocks`, weights likewise, and activations as OpenVINO makes them when it runs; or in float32.
    """

    @property
    def name(self) -> str:
        """In a few words, for tables and messages."""
        activations = {"int8": ", activations calibrated", "int8 blocks": ", activations as they come"}  # fmt: skip
        return (
            super()
            .name.replace(" by blocks", " per column")
            .replace(" per column", f" per column{activations.get(self.weights, '')}")
        )


def require_openvino() -> None:
    """Refuse where a library is missing, before anything is made.

    Raises:
        ExportError: naming it.
    """
    import_openvino(needed_by=_NEEDED_BY)
    _nncf()


def write_ir(float32: Path, out: Path) -> None:
    """Write an ONNX graph as OpenVINO's `.xml` and `.bin`, weights in float32.

    Args:
        float32: a file by `write_float`.
        out: the `.xml`; the `.bin` lies beside it.
    """
    _save(_converted(float32), out)


@dataclass(frozen=True, kw_only=True)
class OpenVinoWriter:
    """Writes variants of a graph for OpenVINO, as `write_variant` does for onnxruntime.

    Weights and activations become eight bits by NNCF's post-training quantisation for transformers: scales of activations are the
    ranges that calibration text fills, smoothed towards the weights where single channels stand out (Xiao et al. 2023), and what
    that shifts on average is taken from the biases. Rows of an embedding table have a scale each.

    Attributes:
        calibration: batches of text in the languages that the graph will read.
    """

    calibration: Sequence[Arrays]

    def __call__(self, float32: Path, out: Path, variant: Variant) -> None:
        """Write a graph once more, as a variant says.

        Args:
            float32: an ONNX file by `write_float`.
            out: the `.xml` to write; the `.bin` lies beside it.
            variant: how; what says how whole numbers are laid out for onnxruntime (`per_tensor`, `reduce_range`) is refused.

        Raises:
            ExportError: for a layer that the graph does not have, a variant that OpenVINO has no form of, or no calibration text.
        """
        if variant.per_tensor or variant.reduce_range:
            raise ExportError(f"OpenVINO has no form of {variant.name!r}: rows and columns have scales of their own, of eight bits.")  # fmt: skip
        if variant.weights == "int8" and not self.calibration:
            raise ExportError(UNCALIBRATED)
        nncf, model = _nncf(), _converted(float32)
        products, tables = _products(model), _tables(model)
        in_float = {name for name in products if variant.weights == "float32"}
        in_float |= _in_float(products, variant, float32)
        if variant.embeddings != "int8":
            in_float |= set(tables)
        with silence():
            if variant.weights == "int8":
                model = nncf.quantize(
                    model,
                    nncf.Dataset([_fed(model, batch) for batch in self.calibration]),
                    subset_size=len(self.calibration),
                    model_type=nncf.ModelType.TRANSFORMER,
                    ignored_scope=nncf.IgnoredScope(names=sorted(in_float), validate=False),
                )
            elif in_float < {*products, *tables}:
                model = nncf.compress_weights(
                    model,
                    mode=nncf.CompressWeightsMode.INT8_SYM,
                    ignored_scope=nncf.IgnoredScope(names=sorted(in_float), validate=False),
                )
        if variant.embeddings == "float16":
            _to_half(_tables(model).values())
        _save(model, out)


def _converted(float32: Path) -> Any:
    return import_openvino(needed_by=_NEEDED_BY).convert_model(str(float32))


def _products(model: Any) -> dict[str, Any]:
    """Matrix products by name."""
    return {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "MatMul"}  # fmt: skip


def _tables(model: Any) -> dict[str, Any]:
    """By name the nodes that look up rows of an embedding table."""
    lookups = [node for node in model.get_ops() if node.get_type_name() == "Gather"]
    return {
        node.get_friendly_name(): node
        for node in lookups
        if node.input_value(0).get_node().get_type_name() == "Constant"
        and len(node.get_input_shape(0)) == 2
        and node.get_input_element_type(0).is_real()
    }


def _in_float(products: Mapping[str, Any], variant: Variant, float32: Path) -> set[str]:
    """Names of the products that a variant keeps in float: those of its layers, and of none that it could name."""
    known = layers_of(float32)
    if unknown := [layer for layer in variant.float_layers if layer not in known]:
        raise ExportError(
            f"{float32}: it has no {unknown[0]!r} that could stay in float; its groups of layers are: {', '.join(known)}."
        )
    small = set(known) - set(variant.float_layers)
    return {name for name in products if not set(layers_of_node(name)) <= small}


def _to_half(lookups: Iterable[Any]) -> None:
    """Store the tables in half precision, from which rows become float32 when they are looked up."""
    opset = import_openvino(needed_by=_NEEDED_BY).opset13
    for node in lookups:
        rows = opset.constant(node.input_value(0).get_node().get_data().astype(np.float16))
        looked_up = opset.gather(rows, node.input_value(1), node.input_value(2))
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(opset.convert(looked_up, "f32").output(0))


def _fed(model: Any, batch: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return columns_for([given.any_name for given in model.inputs], batch)


def _save(model: Any, out: Path) -> None:
    openvino = import_openvino(needed_by=_NEEDED_BY)
    with temporary_beside(out) as folder:
        folder.mkdir()
        openvino.save_model(model, folder / out.name, compress_to_fp16=False)
        for name in (out.with_suffix(".bin").name, out.name):  # the graph comes last
            (folder / name).replace(out.with_name(name))


def _nncf() -> Any:
    import_openvino(needed_by=_NEEDED_BY)
    try:
        with silence():
            import nncf
    except ImportError as error:
        raise missing_library(error, needed_by=_NEEDED_BY, extra="openvino") from error
    return nncf
