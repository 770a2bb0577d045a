"""Costs agree with closed formulas: parameters exactly, operations within two hundredths."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from typer.testing import CliRunner

from xeval.cli.app import app
from xeval.cost.flops import count_flops
from xeval.cost.measure import cost
from xeval.cost.parameters import bytes_on_disk, parameters_of, split_parameters
from xeval.errors import XevalError
from xeval.statistics.result import COST_COLUMNS


def on_meta(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind(config)


def bert_layer(H: int, F: int) -> int:
    """Four projections, two feed-forward matrices, two norms; all with bias."""
    return 4 * (H * H + H) + (H * F + F) + (F * H + H) + 2 * 2 * H


def bert_embeddings(V: int, H: int, positions: int, types: int) -> int:
    return V * H + positions * H + types * H + 2 * H


def mlm_head(V: int, H: int) -> int:
    """Dense, norm, and a bias per piece; the matrix is tied."""
    return H * H + H + 2 * H + V


def modernbert(V: int, H: int, F: int, L: int) -> int:
    """No biases, no positions; GLU input of 2F; the first layer has no attention norm; a final norm."""
    return V * H + H + L * (3 * H * H + H * H + H * 2 * F + F * H + 2 * H) - H + H


# V, layers: total in millions to two places, as published for BERT-base proportions with a pooler.
@pytest.mark.parametrize(
    ("V", "L", "millions"),
    [
        (30_000, 6, 66.55),
        (30_000, 4, 52.38),
        (40_000, 6, 74.23),
        (20_000, 4, 44.70),
        (119_547, 12, 177.85),
    ],
)
def test_bert_with_a_pooler(V: int, L: int, millions: float) -> None:
    found = split_parameters(on_meta(BertModel, BertConfig(vocab_size=V, num_hidden_layers=L)))

    assert found.vocabulary == V * 768
    assert found.embeddings == bert_embeddings(V, 768, 512, 2)
    assert found.body == L * bert_layer(768, 3072) == L * 7_087_872
    assert found.head == 768 * 768 + 768 == 590_592
    assert round(found.total / 1e6, 2) == millions


def test_bert_of_thirty_thousand_pieces_has_the_published_numbers() -> None:
    config = BertConfig(vocab_size=30_000, num_hidden_layers=6)

    assert split_parameters(on_meta(BertModel, config)).total == 66_554_112
    masked = split_parameters(on_meta(BertForMaskedLM, config))
    assert masked.total == 66_585_648
    assert masked.head == mlm_head(30_000, 768)


def test_distilbert() -> None:
    config = DistilBertConfig()

    base = split_parameters(on_meta(DistilBertModel, config))
    masked = split_parameters(on_meta(DistilBertForMaskedLM, config))

    assert base.embeddings == bert_embeddings(30_522, 768, 512, 0)
    assert (base.body, base.head) == (6 * bert_layer(768, 3072), 0)
    assert masked.total - base.total == masked.head == mlm_head(30_522, 768)


def test_xlm_roberta() -> None:
    config = XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, num_hidden_layers=12
    )

    base = split_parameters(on_meta(XLMRobertaModel, config))
    masked = split_parameters(on_meta(XLMRobertaForMaskedLM, config))

    assert base.embeddings == masked.embeddings == bert_embeddings(250_002, 768, 514, 1)
    assert base.body == masked.body == 12 * bert_layer(768, 3072)
    assert base.head == 590_592
    assert masked.head == mlm_head(250_002, 768)


def test_modernbert() -> None:
    config = ModernBertConfig()

    base = split_parameters(on_meta(ModernBertModel, config))
    masked = split_parameters(on_meta(ModernBertForMaskedLM, config))

    assert base.total == modernbert(50_368, 768, 1152, 22)
    assert base.embeddings == 50_368 * 768 + 768
    # Its head has a dense matrix without bias, a norm without bias, and a bias per piece.
    assert masked.head == 768 * 768 + 768 + 50_368


H, F, L, S, V = 64, 160, 3, 48, 300
SMALL = {"hidden_size": H, "num_hidden_layers": L, "num_attention_heads": 4, "vocab_size": V}


def bert_flops(S: int, H: int, F: int, L: int) -> int:
    """Two per multiply-add: projections 4H², feed-forward 2HF, attention S·H twice, for each of S positions."""
    return L * S * 2 * (4 * H * H + 2 * H * F + 2 * S * H)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        (
            BertModel,
            BertConfig(**SMALL, intermediate_size=F),
            bert_flops(S, H, F, L) + 2 * H * H,  # the pooler reads one position
        ),
        (
            DistilBertModel,
            DistilBertConfig(dim=H, hidden_dim=F, n_layers=L, n_heads=4, vocab_size=V),
            bert_flops(S, H, F, L),
        ),
        (
            XLMRobertaModel,
            XLMRobertaConfig(**SMALL, intermediate_size=F, max_position_embeddings=80),
            bert_flops(S, H, F, L) + 2 * H * H,
        ),
        (
            ModernBertModel,
            ModernBertConfig(
                **SMALL, intermediate_size=F, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                cls_token_id=1, sep_token_id=2,
            ),
            L * S * 2 * (4 * H * H + 3 * H * F + 2 * S * H),
        ),
    ],
    ids=["bert", "distilbert", "xlm-roberta", "modernbert"],
)  # fmt: skip
def test_operations_agree_with_the_formula(
    kind: Any, config: Any, expected: int, attention: str
) -> None:
    config._attn_implementation = attention
    encoder = kind(config).eval()

    assert count_flops(encoder, length=S) == pytest.approx(expected, rel=0.02)


def test_operations_of_relative_attention_are_counted_beside_those_of_the_layers() -> None:
    S, H, F, L = 16, 32, 64, 2
    config = DebertaV2Config(
        vocab_size=40, hidden_size=H, intermediate_size=F, num_hidden_layers=L, num_attention_heads=2,
        relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8,
    )  # fmt: skip

    assert bert_flops(S, H, F, L) < count_flops(DebertaV2Model(config).eval(), length=S) < 2 * bert_flops(S, H, F, L)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = BertConfig(**SMALL, intermediate_size=F, max_position_embeddings=64)
    BertForMaskedLM(config).save_pretrained(path)
    return path


def test_a_folder_costs_what_it_holds(folder: Path) -> None:
    found = parameters_of(folder)

    assert found.architecture == "BertForMaskedLM"
    assert found.total == sum(
        p.numel() for p in transformers.AutoModelForMaskedLM.from_pretrained(folder).parameters()
    )
    assert bytes_on_disk(folder) == (folder / "model.safetensors").stat().st_size
    assert bytes_on_disk(folder) > 4 * found.total


def test_a_pooler_that_was_not_saved_is_not_counted_and_a_task_head_is(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = BertConfig(**SMALL, intermediate_size=F, max_position_embeddings=64)
    encoder = BertModel(config, add_pooling_layer=False)
    encoder.save_pretrained(tmp_path)
    assert parameters_of(tmp_path).total == sum(p.numel() for p in encoder.parameters())

    save_file({"weight": torch.zeros(17, H)}, tmp_path / "head.safetensors")

    assert parameters_of(tmp_path).head == 17 * H
    assert parameters_of(tmp_path).architecture == "BertModel with a task head"


@pytest.mark.parametrize("pooler", [False, True])
def test_of_pickled_weights_a_pooler_counts_if_it_was_saved(tmp_path: Path, pooler: bool) -> None:
    config = BertConfig(**SMALL, intermediate_size=F, max_position_embeddings=64)
    encoder = BertModel(config, add_pooling_layer=pooler)
    encoder.config.architectures = ["BertModel"]
    encoder.config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(encoder.state_dict(), file)

    assert parameters_of(tmp_path).total == sum(p.numel() for p in encoder.parameters())

    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(XevalError, match=r"pytorch_model\.bin: not a whole file of tensors alone"):
        parameters_of(tmp_path)


def saved(model: Any, folder: Path) -> tuple[Path, int]:
    """A model of sentence-transformers in a folder, and its number of parameters."""
    model.save(str(folder))
    return folder, sum(p.numel() for p in model.parameters())


def encoder_with(folder: Path, *modules: Any) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    return SentenceTransformer(modules=[Transformer(str(folder)), *modules], device="cpu")


def test_of_a_sentence_encoder_its_dense_layers_count_in_parameters_bytes_and_operations(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    bert = models("bert")
    plain, total = saved(encoder_with(bert, Pooling(32, "mean")), tmp_path / "plain")
    model = encoder_with(bert, Pooling(32, "mean"), Dense(32, 24), Dense(24, 8, bias=False), Normalize())  # fmt: skip
    folder, with_dense = saved(model, tmp_path / "dense")

    without, priced = (cost(f, length=8, repeats=1) for f in (plain, folder))

    assert (without.parameters.total, priced.parameters.total) == (total, with_dense)
    assert priced.parameters.head - without.parameters.head == 32 * 24 + 24 + 24 * 8
    files = folder.rglob("*.safetensors")
    assert priced.bytes == sum(file.stat().st_size for file in files) > without.bytes
    assert priced.flops - without.flops == 2 * (32 * 24 + 24 * 8)
    assert (without.modules, priced.modules) == ((), ("Pooling", "Dense", "Dense", "Normalize"))
    said = (
        CliRunner()
        .invoke(app, ["cost", str(folder), "--length", "8", "--repeats", "3", "--threads", "1"])
        .stdout
    )
    assert "encoder with Pooling, Dense, Dense, Normalize, batch 1, 1 thread, cpu" in said
    assert f"{with_dense:>15,}\n" in said


def test_a_dense_before_the_pooling_is_run_for_every_sub_word(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling

    dense = Dense(32, 16, module_input_name="token_embeddings")
    folder, total = saved(encoder_with(models("bert"), dense, Pooling(16, "mean")), tmp_path / "a")

    priced = cost(folder, length=8, repeats=1)

    assert priced.parameters.total == total
    assert priced.flops - cost(models("bert"), length=8, repeats=1).flops == 8 * 2 * 32 * 16


def test_modules_that_read_all_layers_and_pickled_ones_count_too(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling

    weighted = WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1)
    model = encoder_with(models("bert"), weighted, Pooling(32, "mean"), Dense(32, 8))
    folder, total = saved(model, tmp_path / "weighted")
    for file in folder.glob("[123]_*/model.safetensors"):
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()

    assert parameters_of(folder).total == total
    assert cost(folder, length=8, repeats=1).modules[0] == "WeightedLayerPooling"


def test_a_sparse_encoder_without_a_language_model_head_runs_none(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    modules = [Transformer(str(models("bert"))), Pooling(32, "mean"), SparseAutoEncoder(32, 64, k=4, k_aux=8)]  # fmt: skip
    folder, total = saved(SparseEncoder(modules=modules, device="cpu"), tmp_path / "csr")

    priced = cost(folder, length=8, repeats=1)

    assert (
        priced.parameters.total == total
    )  # a count of when units were last active is no parameter
    assert (priced.with_head, priced.modules) == (False, ("Pooling", "SparseAutoEncoder"))


def test_a_dense_is_not_measured_without_its_library(
    sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    with pytest.raises(XevalError, match=r"pip install 'distillery-xeval\[sentences\]'"):
        cost(sentence_encoder, length=8, repeats=1)


def test_time_is_stated_with_its_conditions(folder: Path) -> None:
    before = torch.get_num_threads()

    priced = cost(folder, threads=1, batch=2, length=S, repeats=5)

    assert 0 < priced.latency_low_ms <= priced.latency_ms <= priced.latency_high_ms
    assert priced.throughput == pytest.approx(2000 / priced.latency_ms)
    assert (priced.threads, priced.batch, priced.length, priced.dtype) == (1, 2, S, "float32")
    assert priced.device.startswith("cpu (")
    assert priced.flops == pytest.approx(bert_flops(S, H, F, L), rel=0.02)
    assert torch.get_num_threads() == before
    assert set(priced.columns()) == set(COST_COLUMNS)
    json.dumps(priced.columns(), allow_nan=False)


def test_a_length_beyond_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(XevalError, match="length 65 is beyond the model's limit of 64"):
        cost(folder, length=65)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(XevalError, match=r"found no config\.json"):
        cost(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(XevalError, match="expected weights"):
        cost(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(XevalError, match="not a whole safetensors file"):
        cost(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(XevalError, match="no model of a known class"):
        cost(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "at least 1, got 0"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"device": "gpu"}, "device must be cpu or cuda, got 'gpu'"),
    ],
)
def test_impossible_conditions_are_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(XevalError, match=message):
        cost(folder, **options)
