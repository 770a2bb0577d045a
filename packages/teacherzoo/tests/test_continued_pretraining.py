"""Pretraining that goes on from encoders in folders that transformers and sentence-transformers wrote."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import metadata_load
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)
from typer.testing import CliRunner

from teacherzoo import (
    ContinuedPretraining,
    Corpus,
    TeacherError,
    continue_pretraining,
    load_teacher,
)
from teacherzoo.cli.app import app
from teacherzoo.errors import RecordError
from teacherzoo.pretrain.masks import MaskedBatches, Masks
from teacherzoo.pretrain.source import open_source, trimmed_source
from teacherzoo.pretrain.trainer import MaskedLMAndStatesLoss, masked_logits
from teacherzoo.progress import no_progress

FEW = ContinuedPretraining(head_steps=1, steps=2, batch=2, length=16)
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}  # fmt: skip
CLASSES = {
    "BertForMaskedLM": SIZES,
    "BertModel": SIZES,
    "BertForSequenceClassification": SIZES,
    "XLMRobertaModel": SIZES,
    "ModernBertModel": SIZES,
    "DistilBertModel": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 64},
}  # fmt: skip


class InterruptionError(Exception):
    pass


@pytest.fixture(scope="module")
def unigram(lines: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer like XLM-R's, with pieces that the text does not need."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=names, unk_token="<unk>", show_progress=False)  # fmt: skip
    backend.train_from_iterator([*lines, "quux quuux qux wux vux qvwx " * 50], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


@pytest.fixture(scope="module")
def save(
    tokenizer: PreTrainedTokenizerFast,
    unigram: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    saved: dict[str, Path] = {}

    def save_as(architecture: str) -> Path:
        if architecture in saved:
            return saved[architecture]
        folder = tmp_path_factory.mktemp(architecture)
        if architecture == "SentenceTransformer":
            transformer = Transformer(str(save_as("BertModel")), max_seq_length=16)
            pooling = Pooling(transformer.get_embedding_dimension())
            SentenceTransformer(modules=[transformer, pooling, Normalize()]).save(str(folder))
        else:
            chosen = unigram if architecture == "XLMRobertaModel" else tokenizer
            model_class: Any = getattr(transformers, architecture)
            config = model_class.config_class(
                vocab_size=len(chosen),
                pad_token_id=chosen.pad_token_id,
                **CLASSES[architecture],
            )
            torch.manual_seed(0)
            model_class(config).save_pretrained(folder)
            chosen.save_pretrained(folder)
        saved[architecture] = folder
        return folder

    return save_as


@pytest.fixture
def corpora(text: Path) -> list[Corpus]:
    return [Corpus("en", text, held_out_share=0.1)]


@pytest.mark.parametrize("architecture", [*CLASSES, "SentenceTransformer"])
def test_every_kind_of_encoder_becomes_a_masked_lm_that_transformers_opens(
    architecture: str, save: Callable[[str], Path], corpora: list[Corpus], tmp_path: Path
) -> None:
    teacher = continue_pretraining(save(architecture), corpora, tmp_path / "t", config=FEW)

    fill = pipeline("fill-mask", model=str(teacher.folder))
    assert len(fill(f"abc {fill.tokenizer.mask_token} def.")) == 5
    model = AutoModelForMaskedLM.from_pretrained(teacher.folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.architectures == [type(model).__name__]
    assert load_teacher(teacher.folder).vocabulary_size == len(fill.tokenizer)
    dropout = "dropout" if architecture == "DistilBertModel" else "hidden_dropout_prob"
    assert getattr(model.config, dropout, 0.1) == 0.1  # 0 in training alone
    assert set(teacher.loss) == {"en"}


def test_the_vocabulary_is_trimmed_to_what_the_languages_need(
    save: Callable[[str], Path], corpora: list[Corpus], tmp_path: Path
) -> None:
    source = save("XLMRobertaModel")
    whole = AutoTokenizer.from_pretrained(source)
    options: list[dict[str, Any]] = [{}, {"keep_vocabulary": True}, {"vocabulary": 100}]
    tokenizers = []
    for number, option in enumerate(options):
        work = tmp_path / str(number)
        work.mkdir()
        config = replace(FEW, **option)
        folder = trimmed_source(source, corpora, config, work, watch=no_progress)
        tokenizers.append(open_source(folder, config, name=source).tokenizer)
        assert {path.name for path in work.iterdir()} <= {"trimmed"}

    trimmed, kept, few = tokenizers
    line = next(corpora[0].documents()).text
    assert len(kept) == len(whole) > len(trimmed) > len(few) == 100
    assert trimmed.convert_ids_to_tokens(trimmed(line).input_ids) == (
        whole.convert_ids_to_tokens(whole(line).input_ids)
    )


def test_a_run_killed_in_both_phases_ends_in_the_bytes_of_an_undisturbed_one(
    save: Callable[[str], Path], corpora: list[Corpus], tmp_path: Path
) -> None:
    config = replace(
        FEW, head_steps=6, steps=5, checkpoint_every=2, states=1.0, last_batch=5, mask_rate=0.3,
        last_mask_rate=0.15, layers=2,
    )  # fmt: skip
    source = save("BertModel")
    undisturbed = continue_pretraining(source, corpora, tmp_path / "one", config=config)
    steps: list[tuple[str, int]] = []

    for killed in (("pretraining the head", 3), ("pretraining", 3)):

        def stop(done: int, total: int, what: str, killed: tuple[str, int] = killed) -> None:
            steps.append((what.partition(",")[0], done))
            if steps[-1] == killed:
                raise InterruptionError

        with pytest.raises(InterruptionError):
            continue_pretraining(source, corpora, tmp_path / "two", config=config, watch=stop)
    resumed = continue_pretraining(
        source,
        corpora,
        tmp_path / "two",
        config=config,
        watch=lambda done, _, what: steps.append((what.partition(",")[0], done)),
    )

    head, body = ([done for phase, done in steps if phase == name] for name in ("pretraining the head", "pretraining"))  # fmt: skip
    assert (head, body) == ([1, 2, 3, 3, 4, 5, 6], [1, 2, 3, 3, 4, 5])
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (resumed.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_head_and_encoder_learn_at_rates_of_their_own(
    save: Callable[[str], Path], corpora: list[Corpus], tmp_path: Path
) -> None:
    config = replace(FEW, learning_rate=1e-30, head_learning_rate=1e-2, head_steps=0, steps=3, keep_vocabulary=True)  # fmt: skip
    source = save("BertModel")
    start = open_source(source, config, name=source).model.state_dict()

    folder = continue_pretraining(source, corpora, tmp_path / "t", config=config).folder

    trained = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    moved = {name for name in start if not torch.allclose(start[name], trained[name], atol=1e-20)}
    assert moved == {
        *(f"cls.predictions.transform.dense.{part}" for part in ("weight", "bias")),
        *(f"cls.predictions.transform.LayerNorm.{part}" for part in ("weight", "bias")),
        *(f"cls.predictions.{part}" for part in ("bias", "decoder.bias")),
    }


def test_the_encoder_rests_while_a_new_head_is_trained(
    save: Callable[[str], Path], corpora: list[Corpus], tmp_path: Path
) -> None:
    config = replace(FEW, learning_rate=1e-30, head_steps=3, steps=1, keep_vocabulary=True)
    source = save("BertModel")
    start = open_source(source, config, name=source).model.state_dict()

    folder = continue_pretraining(source, corpora, tmp_path / "t", config=config).folder

    trained = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    assert not torch.equal(start["cls.predictions.bias"], trained["cls.predictions.bias"])
    encoder = [name for name in start if name.startswith("bert.")]
    assert all(torch.allclose(start[name], trained[name], atol=1e-20) for name in encoder)


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "DistilBertModel", "ModernBertModel"])
def test_chosen_layers_compute_what_the_source_computes_with_its_others_left_out(
    architecture: str, save: Callable[[str], Path]
) -> None:
    source = save(architecture)
    config = replace(FEW, layers=(0, 2))

    opened = open_source(source, config, name=source)

    whole = load_teacher(source, headless=True).model
    whole.set_attn_implementation("eager")  # as narrow models are trained
    layers: Any = next(m for m in whole.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)  # fmt: skip
    del layers[1]
    ids = torch.arange(5, 17).reshape(2, 6)
    with torch.no_grad():
        expected = whole.base_model(ids).last_hidden_state
        actual = opened.model.base_model(ids).last_hidden_state
    assert opened.layers == (0, 2)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("architecture", ["BertModel", "ModernBertModel"])
def test_the_states_term_is_the_mean_squared_distance_to_the_source_of_the_whole_text(
    architecture: str, save: Callable[[str], Path]
) -> None:
    source = save(architecture)
    opened = open_source(source, replace(FEW, layers=2, states=1.0), name=source)
    module = MaskedLMAndStatesLoss(opened.model, opened.encoder, opened.layers, 3.0).train()
    gold = torch.arange(5, 17).reshape(2, 6)
    labels = torch.full_like(gold, -100)
    labels[:, 2] = gold[:, 2]
    masked = torch.where(labels >= 0, opened.tokenizer.mask_token_id, gold)

    same, other = (module(input_ids=ids, labels=labels)["loss"] for ids in (gold, masked))

    def entropy(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(*masked_logits(opened.model, ids, labels))

    # The model has the source's weights still, so that its own states of the text are the source's.
    ours, theirs = (opened.model.base_model(ids, output_hidden_states=True).hidden_states for ids in (masked, gold))  # fmt: skip
    distance = torch.stack([(a - b).square().mean() for a, b in zip(ours, theirs, strict=True)][1:])
    torch.testing.assert_close(same, entropy(gold))
    torch.testing.assert_close(other, entropy(masked) + 3 * distance.mean())
    assert distance.mean() > 0
    other.backward()
    assert all(weights.grad is None for weights in opened.encoder.parameters())


def test_batches_grow_and_masks_fall_by_equal_differences(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    config = replace(FEW, steps=3, batch=2, last_batch=6, length=101, mask_rate=0.3, last_mask_rate=0.1)  # fmt: skip
    blocks = {"en": np.full((7, 101), 50, dtype=np.int32)}
    blocks["en"][:, 0] = tokenizer.cls_token_id

    batches = MaskedBatches(blocks, Masks(tokenizer, config), config, before=1)

    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 101), (2, 101), (4, 101), (6, 101)]  # fmt: skip
    hidden = [(batch["labels"] >= 0).sum(1) for batch in batches]
    assert [set(counts.tolist()) for counts in hidden] == [{30}, {30}, {20}, {10}]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "found a causal LM; give the folder of such a model"),
        ({"model_type": "nomic_bert", "architectures": ["NomicBertModel"], "auto_map": {"AutoModel": "modeling.NomicBertModel"}},
         "of the architecture 'nomic_bert', from which no masked LM can be made here; give a folder of one of albert, bert,"),
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, "of the architecture 't5'"),
    ],
)  # fmt: skip
def test_an_unknown_source_is_refused_in_one_sentence(
    stated: dict[str, Any], message: str, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text(json.dumps(stated))
    (tmp_path / "source/model.safetensors").touch()

    result = _pretrain(text, tmp_path, "--from", str(tmp_path / "source"))

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "0,3"], "layers must be ascending numbers from 0 to 2"),
        (["--layers", "first-4"], "or how many of its first, from 1 to 3, got 4"),
        (["--layers", "six"], "--layers must be numbers of the source's layers such as 0,1,2, or first-6"),
        (["--width", "32"], "--width says what a model from nothing looks like; leave it out with --from"),
        (["--batch", "32:"], "--batch must be a number, or the first and the last with a colon between, got '32:'"),
        (["--mask", "0.3:2"], r"last_mask_rate must be in (0, 1), got 2.0"),
        (["--vocabulary", "100", "--keep-vocabulary"], "leave one of the two out"),
        (["--length", "128"], "reads at most 64 tokens, and blocks have 128"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, save: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    result = _pretrain(text, tmp_path, "--from", str(save("BertModel")), *options)

    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ([], ["--from", "{source}"]),
        (["a"], ["--from", "{source}"]),
        (["a"], []),
        (["abc def " * 40] * 2, ["--from", "{source}", "--length", "100"]),
        (["abc def " * 40] * 2, ["--from", "{source}", "--vocabulary", "2"]),
    ],
    ids=["no text", "little text", "little text, from nothing", "length", "vocabulary"],
)
def test_a_call_that_was_refused_is_not_in_the_way_of_the_mended_one(
    save: Callable[[str], Path], tmp_path: Path, written: list[str], options: list[str]
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(written), encoding="utf-8")
    places = {"source": save("BertModel")}

    done = CliRunner().invoke(
        app,
        ["pretrain", *(option.format(**places) for option in options), "--corpus", f"en={tmp_path / 'text.txt'}",
         "--held-out-share", "0", "-o", str(tmp_path / "out"), "--quiet"],
    )  # fmt: skip

    assert done.exit_code == 2, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_options_about_a_source_need_one(text: Path, tmp_path: Path) -> None:
    result = _pretrain(text, tmp_path, "--head-steps", "5")

    assert result.exit_code == 2
    assert "--head-steps is about a model that is there; name one with --from" in result.stderr


def test_the_command_goes_on_from_the_first_layers(
    save: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    options = "--layers first-2 --states 1.0 --head-steps 1 --steps 2 --batch 1:3 --mask 0.3:0.15 --length 16 --json -q"
    source = save("SentenceTransformer")
    (source / "README.md").write_text("---\nlicense: cc-by-4.0\n---\nA source\n")

    result = _pretrain(text, tmp_path, "--from", str(source), *options.split())

    assert result.exit_code == 0, result.stderr
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["architectures"], config["num_hidden_layers"]) == (["BertForMaskedLM"], 2)
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["layers"] == [0, 1]
    assert metadata_load(tmp_path / "out/README.md")["license"] == "cc-by-4.0"
    assert json.loads(result.stdout)["loss"] == run["held_out_loss"]


def test_a_source_without_a_mask_is_refused(
    save: Callable[[str], Path], corpora: list[Corpus], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    bare = AutoTokenizer.from_pretrained(save("BertModel"))
    transformers.BertModel.from_pretrained(save("BertModel")).save_pretrained(source)
    stated = json.loads(bare.backend_tokenizer.to_str())
    stated["added_tokens"] = [added for added in stated["added_tokens"] if added["content"] != "[MASK]"]  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(stated)),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(source)  # fmt: skip

    with pytest.raises(TeacherError, match="its tokenizer has no mask token"):
        continue_pretraining(source, corpora, tmp_path / "t", config=FEW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_steps": -1}, "head_steps must be at least 0"),
        ({"states": -0.5}, "states must be at least 0"),
        ({"last_batch": 0}, "last_batch must be at least 1"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        replace(FEW, **change)


@pytest.mark.slow
@pytest.mark.skipif(
    not {"DISTILLERY_E5", "DISTILLERY_SHARED"} <= {*os.environ}, reason="no real model and text"
)
def test_a_real_sentence_encoder_becomes_a_masked_lm(tmp_path: Path) -> None:
    text = Path(os.environ["DISTILLERY_SHARED"], "data/corpora/en.txt.xz")
    config = ContinuedPretraining(head_steps=30, steps=10, batch=8, layers=2)

    teacher = continue_pretraining(
        os.environ["DISTILLERY_E5"],
        [Corpus("en", text, limit=4000)],
        tmp_path / "t",
        config=config,
    )

    fill = pipeline("fill-mask", model=str(teacher.folder))
    assert fill.tokenizer.mask_token == "<mask>"
    assert len(fill.tokenizer) < 60_000
    assert teacher.loss["en"] < np.log(len(fill.tokenizer))


def _pretrain(text: Path, folder: Path, *options: str) -> Any:
    arguments = ["pretrain", "--corpus", f"en={text}", "-o", str(folder / "out"), *options]
    return CliRunner().invoke(app, arguments)
