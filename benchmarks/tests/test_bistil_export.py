"""The question about eight bits, on a made encoder of one layer."""

import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent.parent))

from bistil_export import (
    DEFAULT,
    FLOAT,
    LANGUAGES,
    SEVEN_BITS,
    Measuring,
    encode,
    session,
    tokenizer_of,
)
from export_variants import VARIANTS, _pairs, saturating_session
from record import parser

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WORDS = [f"w{number}" for number in range(90)]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measuring, Path, dict[str, Path]]:
    """A measuring, a model's folder, and its graph in every variant."""
    top = tmp_path_factory.mktemp("export")
    for language in LANGUAGES:
        chance = np.random.default_rng(len(language))
        lines = [" ".join(chance.choice(WORDS, 6)) for _ in range(40)]
        file = top / "data" / "corpora" / f"{language}.txt.xz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lzma.compress("\n".join(lines).encode()))
    torch.manual_seed(0)
    BertModel(
        BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64),
        add_pooling_layer=False,
    ).save_pretrained(top / "model")  # fmt: skip
    names = ["[PAD]", "[UNK]", "query", ":", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(top / "model")  # fmt: skip
    options = parser("").parse_args(["--quick", "--model", str(top / "model"), "--data", str(top / "data")])  # fmt: skip
    measuring = Measuring(options, top / "work")
    return measuring, top / "model", measuring._graphs("whole model", top / "model")


def test_every_variant_is_written_and_is_near_float32(
    graphs: tuple[Measuring, Path, dict[str, Path]],
) -> None:
    _, model, files = graphs
    texts = [" ".join(WORDS[start : start + 5]) for start in range(0, 50, 5)]
    vectors = {name: encode(session(file), tokenizer_of(model), texts) for name, file in files.items()}  # fmt: skip

    likeness = {name: float((both * vectors[FLOAT]).sum(1).mean()) for name, both in vectors.items()}  # fmt: skip

    assert set(likeness) == {FLOAT, *VARIANTS}
    assert min(likeness.values()) > 0.99
    assert len({file.read_bytes() for file in files.values()}) == len(files)


def test_a_saturating_session_answers_as_onnxruntime_where_nothing_saturates(
    graphs: tuple[Measuring, Path, dict[str, Path]],
) -> None:
    _, model, files = graphs
    texts = [" ".join(WORDS[:7])]

    emulated = encode(saturating_session(files[SEVEN_BITS]), tokenizer_of(model), texts)

    np.testing.assert_allclose(
        emulated, encode(session(files[SEVEN_BITS]), tokenizer_of(model), texts), atol=2e-3
    )
    weights = np.array([[127], [127], [-3], [1]], dtype=np.int32)
    row = np.array([255, 255, 10, 4], dtype=np.int32)
    assert _pairs(row, weights).tolist() == [2**15 - 1 - 30 + 4]


def test_the_table_has_a_row_for_every_variant(
    graphs: tuple[Measuring, Path, dict[str, Path]],
) -> None:
    measuring, model, files = graphs
    runs = {name: session(file) for name, file in files.items() if name in (FLOAT, DEFAULT)}
    measuring._vectors("whole model", runs, model, ("de",), ())

    table = measuring.markdown()

    assert all(f"\n| {name} |" in table for name in files)
    assert "| cosine de |" in table
