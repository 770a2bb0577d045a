"""How a float32 graph becomes eight bits: rows of tables, columns of products, layers that stay in float."""

import copy
import hashlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from planted_outliers import plant_outliers
from torch import nn
from transformers import PreTrainedTokenizerFast

from bistil.errors import ExportError
from bistil.export.eight_bits.row_tables import quantise_rows
from bistil.export.eight_bits.targets import TARGETS
from bistil.export.eight_bits.variants import Variant, layers_of, write_variant
from bistil.export.graph.float32 import write_float
from bistil.export.graph.graph import open_graph
from bistil.export.graph.layer_names import layers_of_node
from teacherzoo.encoders.families import FAMILIES

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

IDS = np.array([[2, 7, 9, 21, 30, 3], [2, 11, 14, 3, 0, 0]])
FLOATS = Variant(embeddings="float32", weights="float32")


def float_graph(folder: Path) -> Path:
    file = folder / "model.onnx"
    write_float(open_graph(str(folder)), file)
    return file


@pytest.fixture(scope="module")
def masked_lm_file(
    tmp_path_factory: pytest.TempPathFactory, save_teacher: Callable[..., Path]
) -> Path:
    """Of two layers, whose decoder is the embedding table."""
    return float_graph(save_teacher(tmp_path_factory.mktemp("bert"), "bert", layers=2))


@pytest.fixture(scope="module")
def planted_file(
    tmp_path_factory: pytest.TempPathFactory,
    make_masked_lm: Callable[..., Any],
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """An encoder without a head, with outliers that leave its answers as they are."""
    folder = tmp_path_factory.mktemp("planted")
    encoder = make_masked_lm("bert", layers=2, pieces=len(tokenizer)).bert
    ids, before = torch.from_numpy(IDS), copy.deepcopy(encoder)
    plant_outliers(encoder, range(100, 110))
    with torch.no_grad():
        answers = [model(ids).last_hidden_state for model in (encoder, before)]
    torch.testing.assert_close(*answers, atol=1e-4, rtol=0)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return float_graph(folder)


def logits(file: Path) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    mask = (IDS > 0).astype(np.int64)
    fed = {"input_ids": IDS, "attention_mask": mask, "token_type_ids": np.zeros_like(IDS)}
    names = [given.name for given in session.get_inputs()]
    answer: NDArray[np.float32] = session.run(None, {name: fed[name] for name in names})[0]
    return answer[mask.astype(bool)]


def distance(file: Path, variant: Variant, out: Path) -> float:
    write_variant(file, out, variant)
    return float(np.abs(logits(out) - logits(file)).max())


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 6)),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    )
)
def test_a_row_is_at_most_half_its_scale_away_from_its_whole_numbers(
    table: NDArray[np.float32],
) -> None:
    codes, scales = quantise_rows(table)

    error = np.abs(table.astype(np.float64) - codes * scales.astype(np.float64))
    assert (error <= 0.5001 * scales).all()
    assert np.abs(codes.astype(int)).max() <= 127
    assert (scales > 0).all()


def test_a_row_that_is_no_number_is_named() -> None:
    table = np.ones((4, 3), dtype=np.float32)
    for value in (np.inf, -np.inf, np.nan):
        table[2, 1] = value
        with pytest.raises(ExportError, match="Row 2 of an embedding table"):
            quantise_rows(table)


def test_an_outlier_row_ruins_the_others_where_a_table_has_one_scale() -> None:
    table = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    table[7] *= 1000

    codes, scales = quantise_rows(table, per_tensor=True)
    by_row_codes, by_row_scales = quantise_rows(table)

    rest = np.arange(50) != 7
    error = np.abs(table - codes * scales)[rest].max()
    by_row = np.abs(table - by_row_codes * by_row_scales)[rest].max()
    assert np.unique(scales).size == 1
    assert error > 100 * by_row


@pytest.mark.parametrize(
    "family", [name for name, family in FAMILIES.items() if not family.unreached]
)
def test_the_maps_of_every_family_belong_to_a_layer_or_to_what_is_above_and_below(
    family: str, make_masked_lm: Callable[..., Any]
) -> None:
    model = make_masked_lm(family, layers=2)
    maps = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    groups = {name: layers_of_node(f"model.{name}/node_MatMul_1") for name in maps}

    for layer in ("layer 0", "layer 1"):
        inner = [names[1] for names in groups.values() if names[0] == layer]
        assert {f"{layer} attention", f"{layer} feed-forward"} == set(inner)
        assert inner.count(f"{layer} feed-forward") in (2, 3)  # up, down, and a gate in some
    outside = [names for name, names in groups.items() if "layer" not in name]
    assert outside
    assert set(outside) == {("head",)}


def test_layers_of_a_graph_are_those_of_the_model(masked_lm_file: Path) -> None:
    assert layers_of(masked_lm_file) == (
        "layer 0", "layer 0 attention", "layer 0 feed-forward",
        "layer 1", "layer 1 attention", "layer 1 feed-forward", "head",
    )  # fmt: skip


def test_with_everything_in_float_a_variant_answers_as_float32(
    masked_lm_file: Path, tmp_path: Path
) -> None:
    everything = Variant(embeddings="float32", float_layers=layers_of(masked_lm_file))

    assert distance(masked_lm_file, FLOATS, tmp_path / "floats.onnx") <= 1e-5
    assert distance(masked_lm_file, everything, tmp_path / "everything.onnx") <= 1e-5


def test_a_table_in_a_graph_answers_as_its_rows_made_float_again(
    masked_lm_file: Path, tmp_path: Path
) -> None:
    """An oracle: the float graph with rounded tables in place of its own."""
    model = onnx.load(masked_lm_file)
    (words,) = (weight for weight in model.graph.initializer if "word_embeddings" in weight.name or weight.name.endswith("decoder.weight"))  # fmt: skip
    (places,) = (weight for weight in model.graph.initializer if "position_embeddings" in weight.name)  # fmt: skip
    for weight in (words, places):
        codes, scales = quantise_rows(onnx.numpy_helper.to_array(weight))
        weight.CopyFrom(onnx.numpy_helper.from_array(codes * scales, weight.name))
    onnx.save(model, tmp_path / "rounded.onnx")

    write_variant(masked_lm_file, tmp_path / "rows.onnx", Variant(weights="float32"))

    np.testing.assert_allclose(
        logits(tmp_path / "rows.onnx"), logits(tmp_path / "rounded.onnx"), atol=1e-5
    )
    rows = onnx.load(tmp_path / "rows.onnx").graph.initializer
    tables = {tuple(weight.dims) for weight in rows if weight.data_type == onnx.TensorProto.INT8}
    assert tables == {tuple(words.dims), tuple(places.dims)}  # the decoder shares the words' table
    assert not any(
        weight.data_type == onnx.TensorProto.FLOAT and tuple(weight.dims) in tables for weight in rows
    )  # fmt: skip


def test_nearer_variants_are_nearer(masked_lm_file: Path, tmp_path: Path) -> None:
    def far(**how: Any) -> float:
        return distance(masked_lm_file, Variant(**how), tmp_path / "variant.onnx")

    whole = far()
    assert 0 < far(weights="float32", embeddings="float16") < far(weights="float32") < whole
    assert far(weights="int8 blocks") < whole
    assert far(embeddings="float16") < 1.2 * whole  # on its own it says little of the products
    assert far(float_layers=("layer 0", "layer 1")) < whole
    assert far(float_layers=("head",)) < whole


def test_a_product_in_float_has_its_weights_in_float(masked_lm_file: Path, tmp_path: Path) -> None:
    write_variant(
        masked_lm_file, tmp_path / "out.onnx", Variant(float_layers=("layer 1 feed-forward",))
    )

    kinds = {node.name: node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    in_float = [name for name, kind in kinds.items() if kind == "MatMul" and "layer" in name and "dense" in name]  # fmt: skip
    whole = [name for name, kind in kinds.items() if kind == "MatMulInteger"]
    assert len(in_float) == 2
    assert all("layer.1.intermediate" in name or "layer.1.output" in name for name in in_float)
    assert len(whole) == 2 * 4 + 2 + 2  # attention twice, a feed-forward, transform and decoder


def test_seven_bits_are_seven(masked_lm_file: Path, tmp_path: Path) -> None:
    write_variant(masked_lm_file, tmp_path / "out.onnx", Variant(reduce_range=True))

    model = onnx.load(tmp_path / "out.onnx")
    weights = {
        weight.name: onnx.numpy_helper.to_array(weight)
        for weight in model.graph.initializer
        if weight.data_type == onnx.TensorProto.INT8 and weight.dims
    }
    places = {name: array for name, array in weights.items() if "position" in name}
    products = [array for name, array in weights.items() if name not in places]
    assert all(np.abs(array.astype(int)).max() <= 64 for array in products)
    assert np.abs(next(iter(places.values())).astype(int)).max() == 127


def test_the_same_variant_has_the_same_bytes(masked_lm_file: Path, tmp_path: Path) -> None:
    for variant in (Variant(), Variant(weights="int8 blocks", float_layers=("head",))):
        for name in ("first", "second"):
            write_variant(masked_lm_file, tmp_path / f"{name}.onnx", variant)
        assert digest(tmp_path / "first.onnx") == digest(tmp_path / "second.onnx")


def test_a_layer_that_is_not_there_is_refused_and_nothing_is_left(
    masked_lm_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"no 'layer 9' that could stay in float; .* layer 0, "):
        write_variant(masked_lm_file, tmp_path / "out.onnx", Variant(float_layers=("layer 9",)))

    assert not list(tmp_path.iterdir())


def test_weights_beyond_what_one_file_holds_lie_beside_the_graph(
    masked_lm_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of ten kilobytes in place of the 2 GiB of protocol buffers."""
    write_variant(masked_lm_file, tmp_path / "whole.onnx", Variant())
    for weights in ("float32", "int8", "int8 blocks"):
        variant = Variant(weights=weights)  # type: ignore[arg-type]
        write_variant(masked_lm_file, tmp_path / "whole.onnx", variant)
        with monkeypatch.context() as limited:
            limited.setattr(
                import_module("bistil.export.graph.large_files"), "LARGEST_FILE", 10_000
            )
            write_variant(masked_lm_file, tmp_path / "out.onnx", variant)
        np.testing.assert_array_equal(logits(tmp_path / "out.onnx"), logits(tmp_path / "whole.onnx"))  # fmt: skip
        beside = (tmp_path / "out.onnx_data").stat()
        assert beside.st_size > 20_000
        assert beside.st_mode & 0o444 == 0o444  # for whoever serves it
    assert {file.name for file in tmp_path.iterdir()} == {"whole.onnx", "out.onnx", "out.onnx_data"}


def test_outliers_ruin_one_scale_for_a_tensor_and_nothing_else(
    planted_file: Path, tmp_path: Path, sums_are_cut_off: bool
) -> None:
    """The case that a check of the answers has to refuse."""

    def likeness(**how: Any) -> float:
        write_variant(planted_file, tmp_path / "out.onnx", Variant(**{"reduce_range": sums_are_cut_off, **how}))  # fmt: skip
        left, right = logits(tmp_path / "out.onnx"), logits(planted_file)
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return float(((left * right).sum(1) / lengths).mean())

    assert likeness() > 0.99
    assert likeness(reduce_range=True) > 0.99
    assert likeness(weights="int8 blocks") > 0.999
    assert likeness(per_tensor=True) < 0.9
    assert (
        likeness(per_tensor=True, weights="float32") < 0.95 < 0.9999 < likeness(weights="float32")
    )


def test_defaults_are_variants_with_a_reason() -> None:
    assert set(TARGETS) >= {"cpu", "cpu-vnni", "arm"}
    assert TARGETS["cpu"].variant.reduce_range
    assert not TARGETS["cpu-vnni"].variant.reduce_range
    assert TARGETS["arm"].variant.name == "embeddings int8 by row; weights int8 per column"
