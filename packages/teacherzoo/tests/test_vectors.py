from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from teacherzoo import Corpus, record_vectors
from teacherzoo.cache import work_dir
from teacherzoo.cli.app import app
from teacherzoo.errors import CorpusError, RecordError, SignalsError, TeacherError
from teacherzoo.text.corpora import document_digest
from teacherzoo.vectors import record as recording
from teacherzoo.vectors.read import Vectors

LINES = [f"{'ab ' * (number % 5 + 1)}w{number}" for number in range(30)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As sentence-transformers writes it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )

    plain, folder = (tmp_path_factory.mktemp(name) for name in ("plain", "encoder"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ab", *(f"w{number}" for number in range(30))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(plain)  # fmt: skip
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.5, **sizes)).save_pretrained(
        plain
    )  # type: ignore[arg-type]  # plain numbers
    modules = [Transformer(str(plain), max_seq_length=16), Pooling(16, "mean"), Dense(16, 6), Normalize()]  # fmt: skip
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    file = tmp_path / "en.txt"
    file.write_text("\n".join([*LINES, LINES[3]]) + "\n")
    return Corpus("en", file)


def _digests(*texts: str) -> Any:
    return np.frombuffer(b"".join(map(document_digest, texts)), dtype=np.uint8).reshape(-1, 16)


def test_recorded_vectors_are_the_encoders_own_of_prompt_and_line(
    encoder: Path, text: Corpus, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    vectors = record_vectors(encoder, [text], tmp_path / "out", prompts=["", "w1 "], precision="float32")  # fmt: skip

    model = SentenceTransformer(str(encoder), device="cpu")
    expected = model.encode([LINES[7], LINES[0]], prompt="w1 ")
    assert len(vectors) == 60
    assert vectors.dimension == 6
    actual = vectors.rows(_digests("w1 " + LINES[7], "w1 " + LINES[0]))
    assert np.allclose(actual, expected, atol=1e-6)
    assert np.allclose(vectors.rows(_digests(LINES[7])), model.encode([LINES[7]]), atol=1e-6)


def test_a_killed_recording_goes_on_behind_its_last_whole_shard_and_ends_in_the_same_bytes(
    encoder: Path, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_ROWS", 8)
    record_vectors(encoder, [text], tmp_path / "whole")

    def stop(done: int, _total: int, _what: str) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_vectors(encoder, [text], tmp_path / "out", watch=stop)
    shards = work_dir(tmp_path / "out") / "shards"
    kept = {file.name: file.stat().st_mtime_ns for file in shards.iterdir()}
    record_vectors(encoder, [text], tmp_path / "out")

    assert len(kept) == 2
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == at for name, at in kept.items())
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_vectors_of_other_inputs_are_refused(encoder: Path, text: Corpus, tmp_path: Path) -> None:
    vectors = record_vectors(encoder, [text], tmp_path / "out", prompts=["w1 "], length=12)

    vectors.require(teacher=vectors.teacher, length=12, prompts=["w1 "])
    with pytest.raises(SignalsError, match=r"of another teacher .*record them again"):
        vectors.require(teacher="0" * 32, length=12, prompts=["w1 "])
    with pytest.raises(SignalsError, match="cut at 12 tokens, not at 16"):
        vectors.require(teacher=vectors.teacher, length=16, prompts=["w1 "])
    with pytest.raises(SignalsError, match="not of ''"):
        vectors.require(teacher=vectors.teacher, length=12, prompts=[""])
    with pytest.raises(SignalsError, match="1 of 2 lines were not recorded"):
        vectors.rows(_digests("w1 " + LINES[0], LINES[0]))
    with pytest.raises(RecordError, match="already"):
        record_vectors(encoder, [text], tmp_path / "out")


@pytest.mark.parametrize("length", [None, 8])
def test_an_encoder_that_reads_lines_of_any_length_is_refused(
    encoder: Path, text: Corpus, tmp_path: Path, length: int | None
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    backend = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    static = StaticEmbedding(backend, embedding_dim=4)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))

    with pytest.raises(TeacherError, match="no most tokens of a line, as static embeddings"):
        record_vectors(tmp_path / "static", [text], tmp_path / "out", length=length)


def test_vectors_too_large_for_a_precision_are_refused_rather_than_infinite(
    encoder: Path, text: Corpus, tmp_path: Path
) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    modules = list(SentenceTransformer(str(encoder), device="cpu"))[:3]  # without Normalize
    modules[2].linear.bias.data.fill_(1e6)
    modules[2].activation_function = torch.nn.Identity()
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "large"))

    with pytest.raises(TeacherError, match="not finite in float16; record them in float32"):
        record_vectors(tmp_path / "large", [text], tmp_path / "out")
    whole = record_vectors(tmp_path / "large", [text], tmp_path / "whole", precision="float32")
    assert len(whole) == 30


def test_a_language_given_twice_is_refused(encoder: Path, text: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="en: given twice"):
        record_vectors(encoder, [text, text], tmp_path / "out")


def test_what_is_no_recording_or_damaged_is_refused(encoder: Path, text: Corpus, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(SignalsError, match=r"expected a folder of recorded vectors.*teacherzoo vectors"):  # fmt: skip
        Vectors(tmp_path)
    vectors = record_vectors(encoder, [text], tmp_path / "out")
    (tmp_path / "out" / "vectors-00000.parquet").write_bytes(b"no")
    with pytest.raises(SignalsError, match=r"vectors-00000.parquet: cannot be read"):
        len(vectors.rows(_digests(LINES[0])))


def test_a_folder_without_pooling_is_refused(text: Corpus, tmp_path: Path, encoder: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (bare / name).write_bytes((encoder / name).read_bytes())
    with pytest.raises(TeacherError, match=r"no modules.json"):
        record_vectors(bare, [text], tmp_path / "out")
    assert not work_dir(tmp_path / "out").exists()


def test_the_command_records(encoder: Path, text: Corpus, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    outcome = CliRunner().invoke(
        app, ["vectors", str(encoder), "--corpus", f"en={text.source}", "-o", str(tmp_path / "out"), "--prompt", "w1 ", "--quiet"]
    )  # fmt: skip

    assert outcome.exit_code == 0, outcome.output
    assert "30 vectors of 6 dimensions" in outcome.output
    assert Vectors(tmp_path / "out").prompts == ("w1 ",)
