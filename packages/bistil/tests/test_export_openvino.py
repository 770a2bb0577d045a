"""OpenVINO's graphs, of a sentence encoder as sentence-transformers wrote it."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.errors import ExportError
from bistil.export.eight_bits.openvino_ir import (
    FLOAT,
    INT8,
    OpenVinoVariant,
    OpenVinoWriter,
    write_ir,
)
from bistil.export.eight_bits.variants import Variant, layers_of
from bistil.export.graph.graph import open_graph
from bistil.export.graph.session import import_openvino, open_session

pytest.importorskip("onnxscript")
if any(importlib.util.find_spec(name) is None for name in ("nncf", "openvino")):
    pytest.skip("needs openvino and nncf", allow_module_level=True)

TEXTS = ["abc def mnop", "a", "hh gg ff ee dd cc bb aa . .", "bd ce af bg"]


@pytest.fixture(scope="module")
def float32(
    tmp_path_factory: pytest.TempPathFactory,
    sentence_teacher: Path,
    traced_once: Callable[..., int],
) -> Path:
    file = tmp_path_factory.mktemp("float32") / "model.onnx"
    traced_once(open_graph(str(sentence_teacher)), file)
    return file


@pytest.fixture(scope="module")
def batches(tokenizer: Any) -> list[dict[str, np.ndarray[Any, Any]]]:
    return [dict(tokenizer([text], return_tensors="np")) for text in TEXTS]


@pytest.fixture(scope="module")
def expected(sentence_teacher: Path) -> np.ndarray[Any, Any]:
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(sentence_teacher), device="cpu").encode(TEXTS))


@pytest.fixture(scope="module")
def writer(batches: Any) -> OpenVinoWriter:
    return OpenVinoWriter(calibration=batches)


@pytest.fixture(scope="module")
def small(float32: Path, writer: OpenVinoWriter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("int8") / "small.xml"
    writer(float32, file, OpenVinoVariant())
    return file


def vectors(file: Path, tokenizer: Any) -> np.ndarray[Any, Any]:
    rows = tokenizer(TEXTS, padding=True, return_tensors="np")
    return open_session(file)(rows)["sentence_embedding"]


def worst_cosine(file: Path, tokenizer: Any, expected: np.ndarray[Any, Any]) -> float:
    return float((vectors(file, tokenizer) * expected).sum(axis=1).min())


def test_float32_answers_as_torch_does(
    float32: Path, tokenizer: Any, expected: Any, tmp_path: Path
) -> None:
    write_ir(float32, tmp_path / "model.xml")

    np.testing.assert_allclose(vectors(tmp_path / "model.xml", tokenizer), expected, atol=1e-4)
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin"}


def test_eight_bits_are_calibrated_and_near_float32(
    float32: Path, small: Path, tokenizer: Any, expected: Any, sums_are_cut_off: bool
) -> None:
    assert worst_cosine(small, tokenizer, expected) > (0.5 if sums_are_cut_off else 0.95)
    assert small.with_suffix(".bin").stat().st_size < 0.4 * float32.stat().st_size


def test_a_row_of_the_table_has_a_scale_of_its_own(small: Path, tokenizer: Any) -> None:
    model = import_openvino(needed_by="a test").Core().read_model(small)
    shapes = [tuple(node.get_output_shape(0)) for node in model.get_ops() if node.get_type_name() == "Constant"]  # fmt: skip
    assert (len(tokenizer), 32) in shapes
    assert (len(tokenizer), 1) in shapes


def test_what_stays_in_float_is_float(
    float32: Path, writer: OpenVinoWriter, tokenizer: Any, expected: Any, tmp_path: Path
) -> None:
    everything = OpenVinoVariant(embeddings="float32", float_layers=layers_of(float32))
    half = replace(everything, embeddings="float16")

    writer(float32, tmp_path / "float.xml", everything)
    writer(float32, tmp_path / "half.xml", half)

    np.testing.assert_allclose(vectors(tmp_path / "float.xml", tokenizer), expected, atol=1e-4)
    difference = np.abs(vectors(tmp_path / "half.xml", tokenizer) - expected).max()
    assert 1e-6 < difference < 1e-2
    float_bytes, half_bytes = ((tmp_path / name).stat().st_size for name in ("float.bin", "half.bin"))  # fmt: skip
    assert float_bytes - half_bytes > 1.9 * len(tokenizer) * 32


def test_weights_alone_need_no_calibration(
    sentence_teacher: Path, tokenizer: Any, traced_once: Callable[..., int], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    # The teacher's weights are twenty times as far apart as BERT's, so that any rounding of them moves its vectors.
    calmer = SentenceTransformer(str(sentence_teacher), device="cpu")
    for module in calmer[0].modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.mul_(0.25)
    calmer.save(str(tmp_path / "calmer"))
    expected = np.asarray(calmer.encode(TEXTS))
    traced_once(open_graph(str(tmp_path / "calmer")), tmp_path / "model.onnx")
    write = OpenVinoWriter(calibration=())

    write(tmp_path / "model.onnx", tmp_path / "weights.xml", OpenVinoVariant(weights="int8 blocks"))

    assert worst_cosine(tmp_path / "weights.xml", tokenizer, expected) > 0.99


def test_a_variant_is_named_by_what_is_in_eight_bits() -> None:
    assert OpenVinoVariant().name == "embeddings int8 by row; weights int8 per column, activations calibrated"  # fmt: skip
    assert OpenVinoVariant(weights="int8 blocks").name == "embeddings int8 by row; weights int8 per column, activations as they come"  # fmt: skip
    assert OpenVinoVariant(weights="float32").name == "embeddings int8 by row; weights float32"


def test_what_openvino_has_no_form_of_is_refused_and_leaves_nothing(
    float32: Path, writer: OpenVinoWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.xml"
    with pytest.raises(ExportError, match="calibrated on text: give --text LANGUAGE=FILE"):
        OpenVinoWriter(calibration=())(float32, out, OpenVinoVariant())
    with pytest.raises(ExportError, match=r"OpenVINO has no form of .*seven bits"):
        writer(float32, out, Variant(reduce_range=True))
    with pytest.raises(ExportError, match="it has no 'layer 9' that could stay in float; its groups of layers are: layer 0,"):  # fmt: skip
        writer(float32, out, OpenVinoVariant(float_layers=("layer 9",)))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"--for openvino needs nncf, which is not installed; pip install 'bistil\[openvino\]'"):  # fmt: skip
        writer(float32, out, OpenVinoVariant())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("traced_once")
def test_the_command_writes_what_its_program_serves_without_torch(
    sentence_teacher: Path,
    texts: dict[str, Path],
    tokenizer: Any,
    expected: Any,
    tmp_path: Path,
    sums_are_cut_off: bool,
) -> None:
    out = tmp_path / "out"

    bound = "100" if sums_are_cut_off else "20"
    done = CliRunner().invoke(app, ["export", str(sentence_teacher), "-o", str(out), "--for", "openvino", "--text", f"en={texts['en']}", "--bound", bound, "--json"])  # fmt: skip

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told["bytes"]) == [FLOAT, INT8]
    assert told["float32_difference"] <= 1e-4
    assert told["variant"] == OpenVinoVariant().name
    assert told["drops"][0]["measure"] == "cosine"
    assert not (out / "onnx").exists()
    program = f"""
import sys
sys.modules["torch"] = None
from serve import SentenceEncoder
import numpy
for file in ({FLOAT!r}, None):
    numpy.save(f"{{file and 'float'}}.npy", SentenceEncoder(file=file, threads=1).encode({TEXTS!r}, prompt=""))
"""
    served = subprocess.run([sys.executable, "-c", program], cwd=out, capture_output=True, text=True)  # fmt: skip
    assert served.returncode == 0, served.stderr
    np.testing.assert_allclose(np.load(out / "float.npy"), expected, atol=1e-4)
    run = open_session(out / INT8, threads=1)
    alone = [run(tokenizer([text], return_tensors="np"))["sentence_embedding"][0] for text in TEXTS]
    np.testing.assert_allclose(np.load(out / "None.npy"), alone, atol=1e-5)
    card = (out / "README.md").read_text()
    assert "needs openvino, tokenizers and numpy" in card
    assert 'backend="openvino"' in card
    assert "onnx" not in card.partition("# out")[2]


def test_eight_bits_without_text_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "nowhere", "-o", str(tmp_path / "out"), "--for", "openvino"])  # fmt: skip

    assert done.exit_code == 2
    assert " ".join(done.output.split()).endswith("give --text LANGUAGE=FILE in the languages that the model will read.")  # fmt: skip
