from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForMaskedLM,
    DebertaConfig,
    DebertaForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    EuroBertConfig,
    EuroBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    RemBertConfig,
    RemBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaXLConfig,
    XLMRobertaXLForMaskedLM,
)

from teacherzoo import TeacherError, split_head

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "BERT": (BertForMaskedLM, BertConfig(**SIZES)),
    "RoBERTa": (RobertaForMaskedLM, RobertaConfig(**SIZES)),
    "XLM-R": (XLMRobertaForMaskedLM, XLMRobertaConfig(**SIZES)),
    "XLM-R XL": (XLMRobertaXLForMaskedLM, XLMRobertaXLConfig(**SIZES)),
    "CamemBERT": (CamembertForMaskedLM, CamembertConfig(**SIZES)),
    "DistilBERT": (
        DistilBertForMaskedLM,
        DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
    ),
    "ALBERT": (AlbertForMaskedLM, AlbertConfig(**SIZES, embedding_size=8)),
    "DeBERTa": (DebertaForMaskedLM, DebertaConfig(**SIZES, **RELATIVE)),
    "DeBERTa, new head": (DebertaForMaskedLM, DebertaConfig(**SIZES, **RELATIVE, legacy=False)),
    "DeBERTa-v2": (DebertaV2ForMaskedLM, DebertaV2Config(**SIZES, **RELATIVE)),
    "DeBERTa-v2, new head": (
        DebertaV2ForMaskedLM,
        DebertaV2Config(**SIZES, **RELATIVE, legacy=False),
    ),
    "ELECTRA generator": (ElectraForMaskedLM, ElectraConfig(**SIZES, embedding_size=8)),
    "MPNet": (MPNetForMaskedLM, MPNetConfig(**SIZES)),
    "ModernBERT": (
        ModernBertForMaskedLM,
        ModernBertConfig(
            **SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
        ),
    ),
    "RemBERT": (
        RemBertForMaskedLM,
        RemBertConfig(**SIZES, input_embedding_size=8, output_embedding_size=12),
    ),
    "EuroBERT": (
        EuroBertForMaskedLM,
        EuroBertConfig(
            **SIZES,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            mask_token_id=3,
        ),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_together_are_the_whole(family: str) -> None:
    kind, config = FAMILIES[family]
    torch.manual_seed(0)
    model = kind(config).eval()
    for (
        parameter
    ) in model.parameters():  # biases and norms start at 0 and 1, where a lost one would not show
        torch.nn.init.normal_(parameter, std=0.3)
    input_ids = torch.randint(5, 60, (2, 11))
    mask = torch.ones_like(input_ids)
    mask[1, 8:] = 0

    head = split_head(model)
    with torch.no_grad():
        whole = model(input_ids=input_ids, attention_mask=mask).logits
        hidden = head.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        logits = torch.nn.functional.linear(head.transform(hidden), head.weight, head.bias)

    torch.testing.assert_close(logits, whole)


@pytest.mark.parametrize("family", ["BERT", "DeBERTa-v2, new head", "ELECTRA generator"])
def test_the_parts_are_the_model_s_own(family: str) -> None:
    kind, config = FAMILIES[family]
    model = kind(config)

    head = split_head(model)

    assert head.weight.data_ptr() in {parameter.data_ptr() for parameter in model.parameters()}


def test_a_model_without_a_masked_lm_head_is_refused_by_name() -> None:
    model = BertForSequenceClassification(FAMILIES["BERT"][1])

    with pytest.raises(TeacherError, match="BertForSequenceClassification has no masked-LM head"):
        split_head(model)
