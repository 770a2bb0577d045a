"""Rows leave a model's vocabulary; every bit of the rest stays."""

import copy
import json

import pytest
import torch
import transformers

from vocabmerge.errors import VocabularyError
from vocabmerge.models import select_rows, token_ids_of, vocabulary_tensors
from vocabmerge.open_models import open_model

V = 40
KEPT = [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 17, 20, 21, 22, 30, 31, 39]
SMALL = {"vocab_size": V, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER = SMALL | {"intermediate_size": 32, "max_position_embeddings": 24}
SPECIALS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DISTIL = {"vocab_size": V, "dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
DEBERTA = ENCODER | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "pooler_hidden_size": 24,
}
LLAMA = SMALL | {"intermediate_size": 32} | SPECIALS
MODERN = SMALL | SPECIALS | {"intermediate_size": 32, "cls_token_id": 1, "sep_token_id": 2}
T5 = SPECIALS | {"vocab_size": V, "d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2}  # fmt: skip

# name: (config class, its settings, model class)
MODELS = {
    "T5's encoder": ("T5Config", T5, "T5EncoderModel"),
    "UMT5's encoder": ("UMT5Config", T5, "UMT5EncoderModel"),
    "BERT": ("BertConfig", ENCODER, "BertForMaskedLM"),
    "BERT, head untied": ("BertConfig", ENCODER | {"tie_word_embeddings": False}, "BertForMaskedLM"),
    "BERT with sentence head": ("BertConfig", ENCODER, "BertForPreTraining"),
    "BERT encoder": ("BertConfig", ENCODER, "BertModel"),
    "BERT classifier": ("BertConfig", ENCODER, "BertForSequenceClassification"),
    "RoBERTa": ("RobertaConfig", ENCODER | {"pad_token_id": 1}, "RobertaForMaskedLM"),
    "XLM-R": ("XLMRobertaConfig", ENCODER | {"pad_token_id": 1}, "XLMRobertaForMaskedLM"),
    "XLM-R, padding piece that moves": (
        "XLMRobertaConfig", ENCODER | {"pad_token_id": 8}, "XLMRobertaForMaskedLM"),
    "CamemBERT": ("CamembertConfig", ENCODER | {"pad_token_id": 1}, "CamembertForMaskedLM"),
    "DistilBERT": ("DistilBertConfig", DISTIL, "DistilBertForMaskedLM"),
    "ALBERT": ("AlbertConfig", ENCODER | {"embedding_size": 12}, "AlbertForMaskedLM"),
    "ALBERT with sentence head": ("AlbertConfig", ENCODER | {"embedding_size": 12}, "AlbertForPreTraining"),
    "DeBERTa": ("DebertaConfig", DEBERTA, "DebertaForMaskedLM"),
    "DeBERTa-v2": ("DebertaV2Config", DEBERTA, "DebertaV2ForMaskedLM"),
    "DeBERTa-v2, newer head": ("DebertaV2Config", DEBERTA | {"legacy": False}, "DebertaV2ForMaskedLM"),
    "DeBERTa-v2, newer head as wide as the vocabulary": (
        "DebertaV2Config", DEBERTA | {"legacy": False, "hidden_size": V, "pooler_hidden_size": V}, "DebertaV2ForMaskedLM"),
    "ELECTRA generator": ("ElectraConfig", ENCODER | {"embedding_size": 12}, "ElectraForMaskedLM"),
    "ModernBERT": ("ModernBertConfig", MODERN, "ModernBertForMaskedLM"),
    "GPT-2": ("GPT2Config", {"vocab_size": V, "n_embd": 24, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 39}, "GPT2LMHeadModel"),
    "Llama, head untied": ("LlamaConfig", LLAMA | {"eos_token_id": [2, 39]}, "LlamaForCausalLM"),
    "Llama, head tied": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True}, "LlamaForCausalLM"),
}  # fmt: skip


def tiny_model(name):
    config, settings, architecture = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn_like(parameter) * 0.1
            )  # biases begin as zeros and would hide an error
    return model.eval()


def answer(model, ids):
    """Every hidden state of a batch with padding, and the logits, None without a head."""
    pad = model.config.pad_token_id
    mask = (ids != pad).long() if pad is not None else torch.ones_like(ids)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    logits = out.get("prediction_logits", out.get("logits"))
    return out.hidden_states, logits


def old_batch(pad):
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor(KEPT)[torch.randint(len(KEPT), (5, 9), generator=generator)]
    ids[3, 6:] = pad if pad is not None else ids[3, 0]
    return ids


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_kept_logits_are_bit_equal(name):
    model = tiny_model(name)
    ids = old_batch(model.config.pad_token_id)
    hidden, logits = answer(model, ids)

    select_rows(model, KEPT)

    new_hidden, new_logits = answer(model, torch.searchsorted(torch.tensor(KEPT), ids))
    assert all(torch.equal(a, b) for a, b in zip(hidden, new_hidden, strict=True))
    if logits is not None and logits.shape[-1] == V:
        assert torch.equal(new_logits, logits[..., KEPT])
    elif logits is not None:
        assert torch.equal(new_logits, logits)


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_reloaded_equals_in_memory(name, tmp_path):
    model = tiny_model(name)
    select_rows(model, KEPT)
    ids = torch.arange(4 * 4).reshape(4, 4)

    model.save_pretrained(tmp_path)
    again = open_model(tmp_path).eval()

    assert type(again) is type(model)
    assert again.config.vocab_size == len(KEPT)
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    hidden, logits = answer(model, ids)
    new_hidden, new_logits = answer(again, ids)
    assert all(torch.equal(a, b) for a, b in zip(hidden, new_hidden, strict=True))
    assert (logits is None and new_logits is None) or torch.equal(logits, new_logits)


@pytest.mark.parametrize("name", MODELS)
def test_all_rows_kept_is_the_identity(name):
    model = tiny_model(name)
    before = copy.deepcopy(model.state_dict())
    config = model.config.to_dict()

    select_rows(model, range(V))

    assert model.config.to_dict() == config
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_no_tensor_keeps_the_old_length_and_ties_stay_tied(name):
    model = tiny_model(name)
    ties = len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))
    select_rows(model, KEPT)

    found = vocabulary_tensors(model)

    assert found.rows == len(KEPT)
    if model.config.hidden_size != V:
        old = [
            name
            for name, tensor in model.state_dict().items()
            if tensor.dim() and tensor.shape[0] == V
        ]
        assert old == []
    assert (
        len(list(model.named_parameters(remove_duplicate=False))) - len(list(model.parameters()))
        == ties
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_trained_further_the_trimmed_model_moves_all_its_rows():
    model = tiny_model("XLM-R")
    select_rows(model, KEPT)
    ids = torch.arange(16).reshape(2, 8)
    model.train()

    model(input_ids=ids, labels=ids).loss.backward()

    assert all(tensor.grad is not None for tensor in vocabulary_tensors(model))


def test_a_frozen_embedding_stays_frozen():
    model = tiny_model("BERT")
    model.get_input_embeddings().weight.requires_grad = False

    select_rows(model, KEPT)

    assert not model.get_input_embeddings().weight.requires_grad
    assert model.cls.predictions.bias.requires_grad


def test_config_ids_follow_lists_too():
    model = tiny_model("Llama, head untied")
    assert token_ids_of(model.config)["eos_token_id"] == [2, 39]

    select_rows(model, KEPT)

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [2, 16]}
    assert token_ids_of(model.config) == token_ids_of(model.generation_config) == ids
    assert model.get_input_embeddings().padding_idx == 0


def test_the_generation_config_follows_by_its_own_ids():
    """Chat models end a turn with a token that config.json does not name."""
    model = tiny_model("Llama, head tied")
    model.generation_config.eos_token_id = [39, 2]

    select_rows(model, KEPT)

    assert model.config.eos_token_id == 2
    assert model.generation_config.eos_token_id == [16, 2]


def test_an_id_beyond_the_vocabulary_leaves_the_others_of_its_list_alone():
    model = tiny_model("Llama, head untied")
    model.config.eos_token_id = [39, V + 3]

    select_rows(model, KEPT)

    assert model.config.eos_token_id == [16, V + 3]


def test_a_moved_padding_piece_takes_the_position_table_with_it():
    model = tiny_model("XLM-R, padding piece that moves")
    positions = model.roberta.embeddings.position_embeddings.weight.detach().clone()

    select_rows(model, KEPT)

    embeddings = model.roberta.embeddings
    assert model.config.pad_token_id == 6
    assert embeddings.padding_idx == embeddings.position_embeddings.padding_idx == 6
    assert model.config.max_position_embeddings == 22
    assert torch.equal(embeddings.position_embeddings.weight, positions[2:])


def test_padding_rows_are_never_predicted():
    model = tiny_model("BERT")
    select_rows(model, KEPT, pad_to=8)

    _, logits = answer(model, torch.arange(8).reshape(2, 4))

    assert logits.shape[-1] == model.config.vocab_size == 24
    assert logits.softmax(-1)[..., len(KEPT) :].sum() == 0


@pytest.mark.parametrize("tied", [True, False])
def test_padding_rows_of_a_head_without_a_bias_get_no_more_than_their_share(tied):
    """All logits far below zero, as GPT-2's are: a row of zeros would be predicted always."""
    config = transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0)  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(9.0)
        model.lm_head.weight.copy_(torch.randn(30, 8) * 0.3 - 1.5)
        kept = model(torch.tensor([[1, 2, 3]])).logits[..., :20]
    select_rows(model, range(20), pad_to=8)
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3]])).logits
    assert torch.equal(logits[..., :20], kept)
    assert logits[..., :20].max() < 0
    assert (logits.softmax(-1)[..., 20:] <= 1 / 20).all()
    assert (logits.argmax(-1) < 20).all()


def test_half_precision_stays_half_precision(tmp_path):
    model = tiny_model("BERT").to(torch.bfloat16)
    select_rows(model, KEPT)
    model.save_pretrained(tmp_path)

    assert {parameter.dtype for parameter in open_model(tmp_path).parameters()} == {torch.bfloat16}


def test_an_id_without_a_row_is_refused():
    with pytest.raises(VocabularyError, match="id 40 has no row, the embedding has 40"):
        select_rows(tiny_model("BERT"), [*KEPT, V])


def test_a_config_id_that_would_lose_its_row_is_refused_before_anything_changes():
    model = tiny_model("Llama, head untied")
    with pytest.raises(VocabularyError, match=r"LlamaForCausalLM: config\.eos_token_id"):
        select_rows(model, KEPT[:-1])
    model.config.eos_token_id = 2
    with pytest.raises(VocabularyError, match=r"LlamaForCausalLM: generation_config\.eos_token_id"):
        select_rows(model, KEPT[:-1])
    assert vocabulary_tensors(model).rows == V


def test_an_encoder_decoder_is_refused():
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=V, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(VocabularyError, match="encoder-decoder"):
        vocabulary_tensors(model)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(VocabularyError, match=str(tmp_path)):
        open_model(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    config = transformers.BertConfig(**ENCODER, architectures=["HerOwnModel"])
    config.save_pretrained(tmp_path)
    with pytest.raises(VocabularyError, match="'HerOwnModel'"):
        open_model(tmp_path)


def test_nobody_is_asked_whether_code_that_comes_with_a_model_may_run(tmp_path, monkeypatch):
    """transformers asks, and runs it after a yes."""
    monkeypatch.setattr("builtins.input", lambda question: "y")
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    stated = {"model_type": "her_own", "architectures": ["HerOwnModel"]}
    stated["auto_map"] = {"AutoConfig": "code.Own", "AutoModel": "code.Own"}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(VocabularyError, match="no model type 'her_own'; code that comes with a model is not run"):  # fmt: skip
        open_model(tmp_path)
    assert not ran.exists()
