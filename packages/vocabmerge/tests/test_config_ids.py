"""Lists of pieces in a config follow a trim, in files that transformers wrote and opens again."""

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertLMHeadModel, GenerationConfig

from vocabmerge import VocabularyError, open_tokenizer, select_rows, trim
from vocabmerge.config_ids import moved_lists

WORDS = ["[UNK]", "[PAD]", "a", "b", "ab", "##a", "##b", "abb", "abbb"]
PAD, AB, ABB, ABBB = (WORDS.index(word) for word in ("[PAD]", "ab", "abb", "abbb"))
SETTINGS = {
    "suppress_tokens": [AB, ABB],
    "begin_suppress_tokens": [ABBB],
    "bad_words_ids": [[AB, ABB], [AB]],
    "sequence_bias": [[[AB], -1.5], [[AB, ABBB], 2.0]],
    "forced_decoder_ids": [[1, AB], [2, ABB], [3, None]],
}


@pytest.fixture
def folder(tmp_path):
    """A tiny decoder with settings of generation, written by transformers."""
    config = BertConfig(vocab_size=len(WORDS), hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8, is_decoder=True, pad_token_id=PAD)  # fmt: skip
    config.task_specific_params = {"speech": {"suppress_tokens": [AB, ABB], "forced_bos_token_id": ABBB}}  # fmt: skip
    model = BertLMHeadModel(config)
    model.generation_config = GenerationConfig(pad_token_id=PAD, **SETTINGS)
    model.save_pretrained(tmp_path / "model")
    parsed = {
        "added_tokens": [],
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {word: number for number, word in enumerate(WORDS)}},
    }  # fmt: skip
    open_tokenizer(parsed, name="tiny").save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


def test_lists_of_pieces_follow_a_trim_and_the_report_names_what_left_them(folder, tmp_path):
    text = tmp_path / "en.txt"
    text.write_text("ab\nb")
    out = tmp_path / "small"
    report = trim(folder, {"en": text}, out, threshold=0.1)
    pieces = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]
    assert "abb" not in pieces
    ab = pieces["ab"]
    opened = GenerationConfig.from_pretrained(out)
    assert opened.pad_token_id == 1
    assert opened.suppress_tokens == [ab]
    assert opened.begin_suppress_tokens is None
    assert opened.bad_words_ids == [[ab]]
    assert opened.sequence_bias == [[[ab], -1.5]]
    assert opened.forced_decoder_ids == [[1, ab], [3, None]]
    task = json.loads((out / "config.json").read_text())["task_specific_params"]["speech"]
    assert task == {"suppress_tokens": [ab], "forced_bos_token_id": None}
    file = "generation_config.json: "
    assert report["model"]["ids_lost"] == {
        "config.json: task_specific_params.speech.suppress_tokens": [ABB],
        "config.json: task_specific_params.speech.forced_bos_token_id": [ABBB],
        f"{file}suppress_tokens": [ABB],
        f"{file}begin_suppress_tokens": [ABBB],
        f"{file}bad_words_ids": [ABB],
        f"{file}sequence_bias": [ABBB],
        f"{file}forced_decoder_ids": [ABB],
    }
    assert json.loads(Path(out, "report.json").read_text()) == report


def test_lists_of_an_open_model_follow_its_rows(folder):
    model = BertLMHeadModel.from_pretrained(folder)
    select_rows(model, [0, PAD, ABB])
    assert model.generation_config.suppress_tokens == [2]
    assert model.generation_config.bad_words_ids is None
    assert model.config.task_specific_params == {"speech": {"suppress_tokens": [2], "forced_bos_token_id": None}}  # fmt: skip


def test_names_and_choices_of_words_lose_what_went_and_no_more():
    settings = {
        "lang_to_id": {"<|en|>": 3, "<|sw|>": 4},
        "force_words_ids": [[[3], [4]], [[4]]],
        "suppress_tokens": [-1, 99],
        "max_length": 4,
    }
    moved, lost = moved_lists(settings, {3: 0}, 10)
    assert moved == {"lang_to_id": {"<|en|>": 0}, "force_words_ids": [[[0]]]}
    assert lost == {"lang_to_id": [4], "force_words_ids": [4]}


@pytest.mark.parametrize(
    "settings",
    [{"sequence_bias": {"(3,)": -1.0}}, {"bad_words_ids": [3]}, {"suppress_tokens": "3"}, {"lang_to_id": [3]}],
)  # fmt: skip
def test_a_list_of_another_form_is_one_sentence(settings):
    """transformers writes the first of a bias that was given as its documentation shows it, and cannot use it again."""
    (name,) = settings
    with pytest.raises(VocabularyError, match=f"^{name}: expected ids of pieces as transformers"):
        moved_lists(settings, {3: 0}, 10)
