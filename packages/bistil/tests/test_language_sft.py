"""Learning a language, and what the file of it does."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForMaskedLM

from bistil.encoders.body import body_digests, body_parameters
from bistil.errors import AdaptError, BistilError
from bistil.lottery.config import Sparsity
from bistil.lottery.language import LanguageTraining, language_sft
from bistil.sparse.apply import applied
from bistil.sparse.files import read_sparse
from teacherzoo import TeacherzooError

TRAINING = LanguageTraining(
    steps=30, batch=8, length=32, learning_rate=5e-3, evaluate_every=10, checkpoint_every=10, held_out_share=0.1
)  # fmt: skip
SPARSITY = Sparsity(density=0.1, full_steps=20, l1=0.1)


@pytest.fixture(scope="module")
def sw(tmp_path_factory, teacher, texts):
    out = tmp_path_factory.mktemp("languages") / "sw.safetensors"
    language_sft(teacher, texts["sw"], out, language="sw", training=TRAINING, sparsity=SPARSITY)
    return out


def loss_of(model, tokenizer, file):
    """Mean cross-entropy of a tenth of the pieces of a text, masked."""
    generator = torch.Generator().manual_seed(0)
    batch = tokenizer(file.read_text().splitlines()[:60], padding=True, truncation=True, max_length=60, return_tensors="pt")  # fmt: skip
    ids, mask = batch["input_ids"], batch["attention_mask"]
    asked = (torch.rand(ids.shape, generator=generator) < 0.1) & (ids > 4)
    with torch.no_grad():
        logits = model(input_ids=ids.masked_fill(asked, 4), attention_mask=mask).logits
    return float(torch.nn.functional.cross_entropy(logits[asked], ids[asked]))


def test_a_model_with_a_language_applied_knows_it_better(sw, teacher, tokenizer, texts):
    model = AutoModelForMaskedLM.from_pretrained(teacher).eval()
    tuning = read_sparse(sw)
    bare, before = loss_of(model, tokenizer, texts["sw"]), body_digests(model)
    with applied(model, tuning):
        assert loss_of(model, tokenizer, texts["sw"]) < bare - 0.5
    assert body_digests(model) == before
    assert tuning.about["language"] == "sw"
    assert tuning.about["held_out_loss"] < bare


def test_the_file_names_its_model_and_not_where_that_lies(sw, teacher, files_with_places):
    assert read_sparse(sw).about["model"] == teacher.name
    assert files_with_places(sw.parent) == []


def test_the_file_holds_its_share_and_leaves_norms_and_head(sw, teacher):
    tuning, model = read_sparse(sw), AutoModelForMaskedLM.from_pretrained(teacher)
    trainable = sum(p.numel() for n, p in body_parameters(model).items() if "LayerNorm" not in n)
    assert tuning.count == round(0.1 * trainable)
    assert not tuning.head
    assert not any("LayerNorm" in name or "predictions" in name for name in tuning.body)


def test_equal_arguments_give_equal_bytes_and_an_interruption_changes_none(tmp_path, teacher, texts):  # fmt: skip
    training = replace(TRAINING, steps=6, evaluate_every=3, checkpoint_every=2)
    sparsity = replace(SPARSITY, full_steps=4)

    def watch(done, total, what):
        if what.startswith("training the chosen") and done == 5:
            raise KeyboardInterrupt

    def run(name, **options):
        return language_sft(teacher, texts["sw"], tmp_path / name, language="sw", training=training, sparsity=sparsity, **options)  # fmt: skip

    run("a")
    with pytest.raises(KeyboardInterrupt):
        run("b", watch=watch)
    run("b")
    first, second = (read_sparse(tmp_path / name) for name in "ab")
    for name, delta in first.body.items():
        assert delta.indices.tolist() == second.body[name].indices.tolist()
        assert torch.equal(delta.values, second.body[name].values), name


def test_in_bfloat16_a_language_is_learnt_as_in_float32(tmp_path, teacher, texts):
    learnt = {}
    for bf16 in (False, True):
        out = tmp_path / str(bf16)
        training = replace(TRAINING, steps=6, evaluate_every=6, checkpoint_every=0, bf16=bf16)
        language_sft(teacher, texts["sw"], out, language="sw", training=training, sparsity=replace(SPARSITY, full_steps=4))  # fmt: skip
        learnt[bf16] = read_sparse(out)
    exact, rounded = (learnt[bf16].about["held_out_loss"] for bf16 in (False, True))
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact  # it was in effect
    assert learnt[True].about["training"]["bf16"]
    assert all(delta.values.isfinite().all() for delta in learnt[True].body.values())


def test_a_text_that_is_not_there_and_one_too_short_are_refused(tmp_path, teacher):
    (tmp_path / "short.txt").write_text("a b\n")
    for name, fault, share in (("none.txt", "none.txt", 0.0), ("short.txt", "sw", 0.0), ("short.txt", "sw", 0.1)):  # fmt: skip
        with pytest.raises((BistilError, TeacherzooError), match=fault):
            language_sft(teacher, tmp_path / name, tmp_path / "out", language="sw", training=replace(TRAINING, held_out_share=share))  # fmt: skip
        assert not (tmp_path / "out").exists()
        assert {file.name for file in tmp_path.glob(".out.making/*")} <= {".lock", "made_of.json"}


def test_options_that_make_no_sense_are_refused(tmp_path, teacher, texts):
    for wrong in ({"density": 0.0}, {"density": 1.5}, {"l1": -1.0}, {"values": "int8"}, {"full_steps": 0}):  # fmt: skip
        with pytest.raises(BistilError, match=next(iter(wrong))):
            Sparsity(**wrong)
    for wrong in (
        {"steps": 0}, {"length": 7}, {"learning_rate": 0.0}, {"learning_rate": -1.0}, {"warmup": 2.0}, {"evaluate_every": -1},
        {"checkpoint_every": -1},
    ):  # fmt: skip
        with pytest.raises(AdaptError, match=f"^{next(iter(wrong))} must be"):
            language_sft(teacher, texts["sw"], tmp_path / "out", language="sw", training=replace(TRAINING, **wrong))  # fmt: skip
    assert not list(tmp_path.iterdir())
    (tmp_path / "taken").write_text("x")
    with pytest.raises(AdaptError, match="exists already"):
        language_sft(teacher, texts["sw"], tmp_path / "taken", language="sw")


def test_the_plan_that_is_left_names_what_it_was_for(tmp_path, teacher, texts):
    def watch(done, total, what):
        if what.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language_sft(teacher, texts["sw"], tmp_path / "x", language="sw", training=TRAINING, watch=watch)  # fmt: skip
    plan = json.loads((tmp_path / ".x.making" / "made_of.json").read_text())
    assert plan["language"] == "sw"
    with pytest.raises(AdaptError, match="other arguments"):
        language_sft(teacher, texts["en"], tmp_path / "x", language="en", training=TRAINING)


def test_one_that_diverges_stands_in_nobody_s_way(tmp_path, teacher, texts):
    training = replace(TRAINING, learning_rate=1e30, evaluate_every=0, checkpoint_every=0)
    with pytest.raises(TeacherzooError, match="lower the learning rate"):
        language_sft(teacher, texts["sw"], tmp_path / "x", language="sw", training=training)
    assert not list(tmp_path.iterdir())
