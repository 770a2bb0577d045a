"""The ways to store a graph that `bistil_export` compares, and a session that saturates as processors without VNNI do; no question itself."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.export.eight_bits.variants import Variant, write_variant

Samples = Sequence[NDArray[np.int64]]
Writer = Callable[[Path, Path, Samples], None]
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1


def _by(variant: Variant) -> Writer:
    return lambda float32, out, _samples: write_variant(float32, out, variant)


def _runtimes_own(**options: Any) -> Writer:
    """By onnxruntime's function with the options, all operations that it knows."""

    def write(float32: Path, out: Path, _samples: Samples) -> None:
        from onnxruntime import quantization

        with _quiet():
            quantization.quantize_dynamic(
                float32, out, weight_type=quantization.QuantType.QInt8, **options
            )

    return write


def _static(float32: Path, out: Path, samples: Samples) -> None:
    """Embeddings by row, weights per column, and one scale for an activation's tensor, from its largest values on some text."""
    from onnxruntime import quantization

    rows = out.with_name("tables.onnx")
    write_variant(float32, rows, Variant(weights="float32"))
    with _quiet():
        quantization.quantize_static(
            rows,
            out,
            _Reader(rows, samples),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    rows.unlink()


VARIANTS: dict[str, Writer] = {
    "per tensor (onnxruntime's defaults)": _runtimes_own(),
    "per channel, embeddings per tensor": _runtimes_own(per_channel=True),
    "by row and column": _by(Variant()),
    "by row and column, seven bits": _by(Variant(reduce_range=True)),
    "embeddings float16, weights by column": _by(Variant(embeddings="float16")),
    "embeddings float32, weights by column": _by(Variant(embeddings="float32")),
    "embeddings by row, weights float32": _by(Variant(weights="float32")),
    "embeddings by row, weights by blocks of 32": _by(Variant(weights="int8 blocks")),
    "by row and column, activations static": _static,
}


class _Reader:
    """The texts that scales of activations are found on, as onnxruntime wants them."""

    def __init__(self, graph: Path, samples: Samples) -> None:
        import onnx

        names = {given.name for given in onnx.load(graph, load_external_data=False).graph.input}
        self._rows = (
            {name: array for name, array in _inputs(ids).items() if name in names}
            for ids in samples
        )

    def get_next(self) -> dict[str, NDArray[np.int64]] | None:
        return next(self._rows, None)


def saturating_session(file: Path) -> Callable[..., list[Any]]:
    """Runs a graph in NumPy, where the sums of two neighbouring products of eight bits end at sixteen bits, as in AVX2's vpmaddubsw."""
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class MatMulInteger(OpRun):  # type: ignore[misc]
        """[..., K] uint8 by [K, N] int8, whose zero point is 0."""

        def _run(self, codes: Any, weights: Any, zero: Any = None, _none: Any = None) -> Any:
            whole = weights.astype(np.int32)
            shift = 0 if zero is None else int(np.asarray(zero).reshape(-1)[0])
            sums = [_pairs(row, whole) for row in codes.reshape(-1, codes.shape[-1]).astype(np.int32)]  # fmt: skip
            total = np.array(sums) - shift * whole.sum(0)
            return (total.reshape(*codes.shape[:-1], -1).astype(np.int32),)

    class GatherElements(OpRun):  # type: ignore[misc]
        """The reference's own takes at most 64 elements."""

        def _run(self, data: Any, indices: Any, axis: int = 0) -> Any:
            return (np.take_along_axis(data, indices, axis),)

    evaluator = ReferenceEvaluator(onnx.load(file), new_ops=[MatMulInteger, GatherElements])
    names = evaluator.input_names

    def run(ids: NDArray[np.int64], _mask: NDArray[np.int64]) -> list[Any]:
        fed = {name: array for name, array in _inputs(ids[0]).items() if name in names}
        answers = dict(zip(evaluator.output_names, evaluator.run(None, fed), strict=True))
        return [answers.get("sentence_embedding", next(iter(answers.values())))]

    return run


def _pairs(row: NDArray[np.int32], weights: NDArray[np.int32]) -> NDArray[np.int64]:
    """[K] by [K, N]: the sum of pairs of products, each within sixteen bits."""
    pairs = row[::2, None] * weights[::2] + row[1::2, None] * weights[1::2]
    total: NDArray[np.int64] = np.clip(pairs, _LOWEST, _HIGHEST).sum(0, dtype=np.int64)
    return total


def _inputs(ids: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    row = np.atleast_2d(ids)
    return {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
