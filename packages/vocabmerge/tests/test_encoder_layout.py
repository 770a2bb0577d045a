"""Every kind of folder is told by its configs, and what is not understood is named."""

import json
import subprocess
import sys

import pytest

from vocabmerge import Kind, VocabularyError, read_layout
from vocabmerge.encoder_folder.layout import named_ids
from vocabmerge.open_models import open_model

POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}  # fmt: skip
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}  # fmt: skip


def folder_of(tmp_path, config, *, modules=None, **further):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").touch()
    if modules is not None:
        (tmp_path / "modules.json").write_text(json.dumps(modules))
    for name, content in further.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertForMaskedLM", Kind.MASKED_LM),
        ("AlbertForPreTraining", Kind.MASKED_LM),
        ("ElectraForPreTraining", Kind.HEADLESS),
        ("GPT2LMHeadModel", Kind.CAUSAL_LM),
        ("LlamaForCausalLM", Kind.CAUSAL_LM),
        ("XLMWithLMHeadModel", Kind.MASKED_LM),
        ("MPNetModel", Kind.HEADLESS),
        ("T5EncoderModel", Kind.HEADLESS),
        ("DPRQuestionEncoder", Kind.HEADLESS),
        ("BertForMultipleChoice", Kind.MULTIPLE_CHOICE),
        ("DistilBertForTokenClassification", Kind.TOKEN_CLASSIFIER),
        ("XLMRobertaForQuestionAnswering", Kind.QUESTION_ANSWERING),
        ("ModernBertForSequenceClassification", Kind.CLASSIFIER),
        (None, Kind.HEADLESS),
    ],
)
def test_the_architecture_says_the_kind(architecture, kind, tmp_path):
    layout = read_layout(folder_of(tmp_path, {"architectures": architecture and [architecture]}))
    assert layout.kind is kind
    assert layout.architecture == (architecture or "AutoModel")


@pytest.mark.parametrize(
    ("config", "labels"),
    [({"num_labels": 1}, 1), ({"id2label": {"0": "LABEL_0"}}, 1), ({"id2label": dict.fromkeys("abc", "x")}, 3), ({}, 2)],
)  # fmt: skip
def test_a_classifier_has_as_many_labels_as_transformers_counts(config, labels, tmp_path):
    config = {"architectures": ["BertForSequenceClassification"], **config}
    assert read_layout(folder_of(tmp_path, config)).num_labels == labels


@pytest.mark.parametrize(
    ("config", "reranker"),
    [
        ({"num_labels": 1}, "assumed"),
        ({"num_labels": 1, "problem_type": None}, "assumed"),
        ({"num_labels": 1, "problem_type": "regression"}, None),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, None),
        ({"num_labels": 3}, None),
        ({"num_labels": 3, "problem_type": "regression"}, None),
    ],
)
def test_a_classifier_of_one_label_is_a_reranker_unless_its_problem_is_stated(config, reranker, tmp_path):  # fmt: skip
    config = {"architectures": ["BertForSequenceClassification"], **config}
    assert read_layout(folder_of(tmp_path, config)).reranker == reranker
    # Of a pair's score, whatever transformers trained it by, sentence-transformers says so.
    older = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    newer = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0.0"}}  # fmt: skip
    for settings in (older, newer):
        stated = read_layout(folder_of(tmp_path, {**config, **settings})).reranker
        assert stated == (None if config["num_labels"] == 3 else "stated")


@pytest.mark.parametrize(
    ("settings", "modules", "kind"),
    [
        ({}, [TRANSFORMER, POOLING], Kind.SENTENCE),
        ({"model_type": "MultiVectorEncoder"}, [TRANSFORMER], Kind.MULTI_VECTOR),
        ({"model_type": "SparseEncoder"}, [TRANSFORMER], Kind.SPARSE),
        ({}, [TRANSFORMER, {**POOLING, "type": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"}], Kind.SPARSE),
        ({"model_type": "CrossEncoder"}, [TRANSFORMER], Kind.CLASSIFIER),
    ],
)  # fmt: skip
def test_sentence_transformers_says_what_its_folder_is(settings, modules, kind, tmp_path):
    config = {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
    settings = {**settings, "prompts": {"query": "query: "}}
    layout = read_layout(folder_of(tmp_path, config, modules=modules, config_sentence_transformers=settings))  # fmt: skip
    assert layout.kind is kind
    assert layout.prompts == {"query": "query: "}
    assert layout.num_labels == (1 if kind is Kind.CLASSIFIER else None)
    assert layout.reranker == ("stated" if kind is Kind.CLASSIFIER else None)
    assert layout.modules[0].name == "Transformer"


def test_a_tokenizer_alone_is_one_in_a_folder_or_as_a_file(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    assert read_layout(tmp_path).kind is read_layout(file).kind is Kind.TOKENIZER
    layout = read_layout(file)
    assert layout.folder / layout.tokenizer == file


@pytest.mark.parametrize(
    ("config", "modules", "sentence"),
    [
        ({"architectures": ["T5ForConditionalGeneration"]}, None, "T5ForConditionalGeneration is no kind of model"),
        ({"architectures": ["ClipModel"], "text_config": {"a": 1}}, None, "several parts"),
        ({"model_type": ["bert"]}, None, r"config\.json: model_type: expected a name such as \"bert\", got \['bert'\]"),
        ({"model_type": None}, None, "model_type: expected a name such as \"bert\", got None"),
        ({"architectures": 3}, None, "architectures: expected a list of classes such as .*, got 3"),
        ({"architectures": "BertModel"}, None, "architectures: expected a list of classes such as .*, got 'BertModel'"),
        ({"architectures": [3]}, [TRANSFORMER, POOLING], r"architectures: expected a list of classes such as .*, got \[3\]"),
        ({}, [], "expected at least one module, got an empty list"),
        ({}, [{"path": ""}], "expected a list of modules with type and path"),
        ({}, [POOLING], "expected a module that reads text, got Pooling"),
        ({}, [TRANSFORMER, {**POOLING, "type": "custom_st.Pooling"}], "'custom_st.Pooling' is no module that is known here"),
        ({}, [TRANSFORMER, {**POOLING, "type": "sentence_transformers.models.WordWeights"}], "the module WordWeights has a weight for each id"),
        ({}, [{**TRANSFORMER, "path": "../other"}], "expected module folders inside the model's"),
        ({}, [{**TRANSFORMER, "path": "0_Transformer"}], "0_Transformer: expected the weights of a module there"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(config, modules, sentence, tmp_path):
    with pytest.raises(VocabularyError, match=sentence):
        read_layout(folder_of(tmp_path, config, modules=modules))


def test_a_config_without_weights_is_no_tokenizer_alone(tmp_path):
    """Weights under another name, or not fetched: cut as a tokenizer, the model would be lost unsaid."""
    folder = folder_of(tmp_path, {"architectures": ["BertModel"]}, tokenizer={})
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(VocabularyError, match=r"config\.json without weights beside it"):
        read_layout(folder)
    assert read_layout(folder / "tokenizer.json").kind is Kind.TOKENIZER


def test_an_adapter_alone_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(VocabularyError, match="merge it into the model"):
        read_layout(folder_of(tmp_path, None, adapter_config={}))


@pytest.mark.parametrize(
    ("model_type", "sentence"),
    [(["bert"], r"model_type: expected a name such as \"bert\", got \['bert'\]"), ("berd", "has no model type 'berd'; mend its config.json, or install")],
)  # fmt: skip
def test_a_model_type_that_transformers_lacks_is_one_sentence(model_type, sentence, tmp_path):
    folder = folder_of(tmp_path, {"model_type": model_type, "architectures": ["BertModel"]})
    with pytest.raises(VocabularyError, match=sentence) as refusal:
        open_model(folder)
    assert ". " not in str(refusal.value)


def test_every_named_id_is_found_and_defaults_count(tmp_path):
    """BERT's padding id is 0 where the file says nothing of it."""
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "bos_token_id": 7}
    folder = folder_of(tmp_path, config, generation_config={"eos_token_id": [8, 9], "max_length": 5})  # fmt: skip
    assert named_ids(read_layout(folder)) == [0, 7, 8, 9]


def test_telling_the_kind_imports_no_torch(tmp_path):
    folder_of(tmp_path, {"architectures": ["BertModel"]})
    code = f"import sys, vocabmerge; vocabmerge.read_layout({str(tmp_path)!r}); sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
