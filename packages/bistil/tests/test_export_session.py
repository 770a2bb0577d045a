"""Graphs of both formats, opened as one function."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bistil.errors import ExportError
from bistil.export.graph.session import import_openvino, open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if importlib.util.find_spec("openvino") is None:
    pytest.skip("needs openvino", allow_module_level=True)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`sum` = ids + types, `product` = that times odd fractions, which half precision does not hold."""
    openvino = import_openvino(needed_by="a test")
    folder = tmp_path_factory.mktemp("graphs")
    whole, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    shape = ["batch", "sequence"]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Add", ["input_ids", "token_type_ids"], ["sum"]),
            onnx.helper.make_node("Cast", ["sum"], ["cast"], to=real),
            onnx.helper.make_node("MatMul", ["cast", "weight"], ["product"]),
        ],
        "graph",
        [
            onnx.helper.make_tensor_value_info(name, whole, shape)
            for name in ("input_ids", "token_type_ids")
        ],
        [
            onnx.helper.make_tensor_value_info("sum", whole, shape),
            onnx.helper.make_tensor_value_info("product", real, ["batch", 1]),
        ],
        [onnx.helper.make_tensor("weight", real, [3, 1], [1 / 3, 1 / 7, 1 / 11])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)  # fmt: skip
    onnx.save(model, folder / "model.onnx")
    openvino.save_model(openvino.convert_model(str(folder / "model.onnx")), folder / "model.xml", compress_to_fp16=False)  # fmt: skip
    return {file.suffix: file for file in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_graph_answers_by_name_and_takes_what_it_reads(
    graphs: dict[str, Path], suffix: str
) -> None:
    run = open_session(graphs[suffix], threads=1)
    ids, types = np.array([[1, 2, 3], [400, 500, 600]]), np.array([[0, 0, 1], [1, 1, 1]])

    typed = run({"input_ids": ids, "attention_mask": ids, "token_type_ids": types})
    untyped = run({"input_ids": ids})

    assert list(typed) == ["sum", "product"]
    np.testing.assert_array_equal(typed["sum"], ids + types)
    np.testing.assert_array_equal(untyped["sum"], ids)
    expected = (ids + types) @ np.array([[1 / 3], [1 / 7], [1 / 11]])
    np.testing.assert_allclose(typed["product"], expected, rtol=1e-6)


def test_openvino_does_not_report_its_use(graphs: dict[str, Path]) -> None:
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules


@pytest.mark.parametrize(
    ("suffix", "library", "extra"),
    [(".onnx", "onnxruntime", "export"), (".xml", "openvino", "openvino")],
)
def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(
    graphs: dict[str, Path], suffix: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExportError, match=rf"model{suffix} needs {library}, which is not installed; pip install 'bistil\[{extra}\]'"):  # fmt: skip
        open_session(graphs[suffix])
