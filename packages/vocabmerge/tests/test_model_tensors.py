"""The tensors that come out of a folder's trim or carry are those that went in, by name."""

import json

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from vocabmerge import VocabularyError, carry_model, read_source, trim
from vocabmerge.maps import load_map
from vocabmerge.open_models import open_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{x}" for x in "abcdefgh")]  # fmt: skip
PIECES = [*WORDS, "abc", "##def", "gab", "rare", "rarer", "rarest"]
TINY = {
    "vocab_size": len(PIECES),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 20,
}
HEAD = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "cls.predictions.bias")


def bert(kind, **options):
    return getattr(transformers, kind)(transformers.BertConfig(**TINY), **options)


def xlmr(kind, pad=1):
    return getattr(transformers, kind)(transformers.XLMRobertaConfig(**{**TINY, "type_vocab_size": 1, "pad_token_id": pad, "bos_token_id": 0, "eos_token_id": 3}))  # fmt: skip


MODELS = {
    "without a pooler": lambda: bert("BertModel", add_pooling_layer=False),
    "with a pooler": lambda: bert("BertModel"),
    "masked LM": lambda: bert("BertForMaskedLM"),
    "pretraining": lambda: bert("BertForPreTraining"),
    "token classes": lambda: bert("BertForTokenClassification"),
    "text classes": lambda: xlmr("XLMRobertaForSequenceClassification"),
    "XLM-R": lambda: xlmr("XLMRobertaForMaskedLM"),
    "XLM-R, padding piece that moves": lambda: xlmr("XLMRobertaForMaskedLM", pad=12),
}


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    return saved(tmp_path, MODELS[request.param]())


def saved(tmp_path, model):
    """A folder with the model, its biases no zeros, a tokenizer, a text, and a further vocabulary to carry to."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model", PIECES)
    (tmp_path / "new").mkdir()
    write_tokenizer(tmp_path / "new", [*WORDS, "##abc", "gab"])
    (tmp_path / "text.txt").write_text("abcdef gab hade\nrare fag cab\n")
    return tmp_path


def write_tokenizer(folder, pieces):
    vocab = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(pieces[:5])
    made.save(str(folder / "tokenizer.json"))


def tensors(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping


def rewrite(folder, change, architecture=None):
    """Change the tensors of a folder's file, and perhaps the class that its config names."""
    save_file(change(tensors(folder)), folder / "model.safetensors", metadata={"format": "pt"})
    if architecture:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))


def assert_trimmed(before, after, kept):
    """The same names; vocabulary tables cut, position tables perhaps moved, all else bit-equal."""
    assert after.keys() == before.keys()
    for name, old in before.items():
        if len(old) == len(PIECES):
            assert torch.equal(after[name], old[kept]), name
        elif "position_embeddings" not in name:
            assert torch.equal(after[name], old), name


def test_a_trim_writes_the_tensors_that_it_read(folder, capfd):
    trim(folder / "model", {"xx": [folder / "text.txt"]}, folder / "cut", top=24)
    assert capfd.readouterr() == ("", "")
    kept = load_map(folder / "cut" / "maps" / "model.safetensors").inverse().one_to_one()
    assert_trimmed(tensors(folder / "model"), tensors(folder / "cut"), kept.tolist())


def test_a_carry_writes_the_tensors_that_it_read(folder, capfd):
    report = carry_model(folder / "new", [folder / "model"], folder / "out")
    assert capfd.readouterr() == ("", "")
    before, after = tensors(folder / "model"), tensors(folder / "out")
    assert after.keys() == before.keys()
    assert report["tensors_left_out"] == []
    for name, old in before.items():
        if len(old) == len(PIECES):
            assert len(after[name]) == len(WORDS) + 2
            assert torch.equal(after[name][: len(WORDS)], old[: len(WORDS)]), name
        elif "position_embeddings" not in name:
            assert torch.equal(after[name], old), name


def test_what_the_models_class_does_not_have_is_trimmed_with_it(tmp_path):
    """Weights of a masked LM with all its heads, in a folder that calls itself a bare encoder."""
    folder = saved(tmp_path, MODELS["pretraining"]())
    rewrite(folder / "model", lambda old: {**old, HEAD[0]: old["bert.embeddings.word_embeddings.weight"].clone()}, "BertModel")  # fmt: skip
    trim(folder / "model", {"xx": [folder / "text.txt"]}, folder / "cut", top=24)
    kept = load_map(folder / "cut" / "maps" / "model.safetensors").inverse().one_to_one()
    before, after = tensors(folder / "model"), tensors(folder / "cut")
    assert len(after[HEAD[0]]) == len(after[HEAD[2]]) == 24
    assert_trimmed(before, after, kept.tolist())


def test_what_cannot_be_carried_is_left_out_and_named(tmp_path):
    folder = saved(tmp_path, MODELS["masked LM"]())
    rewrite(folder / "model", dict, "BertModel")
    report = carry_model(folder / "new", [folder / "model"], folder / "out")
    left_out = tensors(folder / "model").keys() - tensors(folder / "out").keys()
    assert sorted(report["tensors_left_out"]) == sorted(left_out) == [HEAD[2]]


def test_old_names_and_pickled_files_keep_their_tensors(tmp_path):
    folder = saved(tmp_path, MODELS["masked LM"]())
    old = tensors(folder / "model")
    named = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in old.items()}  # fmt: skip
    named[HEAD[0]] = named["bert.embeddings.word_embeddings.weight"]
    (folder / "model" / "model.safetensors").unlink()
    torch.save(named, folder / "model" / "pytorch_model.bin")
    trim(folder / "model", {"xx": [folder / "text.txt"]}, folder / "cut", top=24)
    del named[HEAD[0]]  # one tensor under two names is written once
    kept = load_map(folder / "cut" / "maps" / "model.safetensors").inverse().one_to_one()
    assert_trimmed(named, tensors(folder / "cut"), kept.tolist())


def test_a_head_that_was_made_up_is_no_source_of_rows(tmp_path):
    folder = saved(tmp_path, MODELS["masked LM"]())
    rewrite(folder / "model", lambda old: {n: t for n, t in old.items() if "cls." not in n})
    assert read_source(folder / "model").bias is None


def test_a_folder_without_an_embedding_is_refused(tmp_path, capfd):
    folder = saved(tmp_path, MODELS["masked LM"]())
    rewrite(folder / "model", lambda old: {n: t for n, t in old.items() if "word_emb" not in n})
    with pytest.raises(VocabularyError, match=r"expected the embedding in its weights, found no bert\.emb"):  # fmt: skip
        open_model(folder / "model")
    assert capfd.readouterr() == ("", "")
