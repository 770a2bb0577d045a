"""Lists of pieces in a config follow a trim, in files that transformers wrote and opens again."""

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertLMHeadModel, GenerationConfig

from vocabmerge import VocabularyError, apply_patch, open_tokenizer, select_rows, trim
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


def with_settings(folder, **files):
    for name, settings in files.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("file", "value"),
    [("generation_config", "3"), ("config", "3"), ("config", ["3"]), ("generation_config", {"3": 3})],
)  # fmt: skip
def test_an_id_that_is_no_number_is_one_sentence(folder, tmp_path, file, value):
    with_settings(folder, **{file: {"eos_token_id": value}})
    (tmp_path / "en.txt").write_text("ab")
    with pytest.raises(
        VocabularyError, match=rf"^\S*/{file}\.json: eos_token_id: expected the id of a piece or"
    ):
        trim(folder, {"en": tmp_path / "en.txt"}, tmp_path / "small")  # fmt: skip


def test_a_setting_that_transformers_refuses_is_one_sentence(folder, tmp_path):
    with_settings(folder, config={"vocab_size": "9"})
    (tmp_path / "en.txt").write_text("ab")
    with pytest.raises(VocabularyError, match=r"cannot load the model: .*vocab_size"):
        trim(folder, {"en": tmp_path / "en.txt"}, tmp_path / "small")


@pytest.mark.parametrize("file", ["config", "generation_config"])
@pytest.mark.parametrize("setting", ["eos_token_id", "decoder_start_token_id", "pad_token_id"])
def test_a_row_that_only_a_config_names_stays_behind_the_pieces(folder, tmp_path, file, setting):
    """Some models pad with a row that their tokenizer has no piece for."""
    model = BertLMHeadModel.from_pretrained(folder)
    model.resize_token_embeddings(len(WORDS) + 4)
    model.save_pretrained(folder)
    with_settings(folder, **{file: {setting: len(WORDS) + 2}})
    (tmp_path / "en.txt").write_text("ab\nb")
    before = BertLMHeadModel.from_pretrained(folder)
    patch, small, again, applied = (tmp_path / name for name in ("patch", "small", "again", "applied"))  # fmt: skip
    trim(folder, {"en": tmp_path / "en.txt"}, small, threshold=0.1, patch=patch)
    pieces = json.loads((small / "tokenizer.json").read_text())["model"]["vocab"]
    assert json.loads((small / f"{file}.json").read_text())[setting] == len(pieces)
    after = BertLMHeadModel.from_pretrained(small)
    rows = [WORDS.index(piece) for piece in pieces] + [len(WORDS) + 2]
    old, new = (model.get_input_embeddings().weight for model in (before, after))
    assert new.tolist() == old[rows].tolist()
    apply_patch(folder, patch, applied)
    trim(small, {"en": tmp_path / "en.txt"}, again, threshold=0.1)
    for folder_of_the_same in (applied, again):
        weights = folder_of_the_same / "model.safetensors"
        assert weights.read_bytes() == (small / "model.safetensors").read_bytes()
