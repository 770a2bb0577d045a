"""What transformers makes of all files of a folder is what is read, counted and written."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vocabmerge import VocabularyError, read_vocabulary, trim

CUT = json.loads(Path(__file__).parent.joinpath("real_tokenizers", "bert-base-uncased.json").read_text("utf-8"))  # fmt: skip
SIZE = len(CUT["model"]["vocab"])
NEW = {"newword": SIZE, "[NEW]": SIZE + 1}
NOT_SPECIAL = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": False}  # fmt: skip
ROLES = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}  # fmt: skip
BERT = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", **ROLES}
DECODER = {"added_tokens_decoder": {str(number): {"content": token, **NOT_SPECIAL} for token, number in NEW.items()}}  # fmt: skip
ADDITIONAL = {**ROLES, "additional_special_tokens": ["[NEW]"]}
TEXTS = ["The newword QUICK brown fóxes [NEW] xnewwordx", "were THEY [MASK] jumping", "[new] Newword", ""]  # fmt: skip


def file_of(**normalizer):
    return {**CUT, "normalizer": {**CUT["normalizer"], **normalizer}}


def old_words():
    return "".join(f"{word}\n" for word in sorted(CUT["model"]["vocab"], key=CUT["model"]["vocab"].get))  # fmt: skip


LAYOUTS = {
    "added_tokens.json and a map of special ones beside vocab.txt": {"vocab.txt": None, "added_tokens.json": NEW, "tokenizer_config.json": BERT, "special_tokens_map.json": ADDITIONAL},
    "added_tokens.json beside vocab.txt": {"vocab.txt": None, "added_tokens.json": NEW, "tokenizer_config.json": BERT},
    "added_tokens.json that says more": {"tokenizer.json": CUT, "added_tokens.json": NEW, "tokenizer_config.json": BERT},
    "added_tokens_decoder that says more": {"tokenizer.json": CUT, "added_tokens.json": NEW, "tokenizer_config.json": BERT | DECODER},
    "added_tokens_decoder that says more, no class": {"tokenizer.json": CUT, "tokenizer_config.json": GENERIC | DECODER},
    "added_tokens_decoder with other flags": {
        "tokenizer.json": {**CUT, "added_tokens": [*CUT["added_tokens"], *({"id": number, "content": token, **NOT_SPECIAL, "special": True} for token, number in NEW.items())]},
        "tokenizer_config.json": BERT | DECODER,
    },
    "a file that lowercases, a config that does not": {"tokenizer.json": CUT, "tokenizer_config.json": BERT | {"do_lower_case": False}},
    "a config that lowercases, a file that does not": {"tokenizer.json": file_of(lowercase=False), "tokenizer_config.json": BERT},
    "a class that lowercases, a file that does not": {"tokenizer.json": file_of(lowercase=False), "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
    "a config without its class's name": {"tokenizer.json": file_of(lowercase=False), "tokenizer_config.json": {}, "config.json": {"model_type": "bert"}},
    "a config that keeps accents": {"tokenizer.json": CUT, "tokenizer_config.json": BERT | {"strip_accents": False, "tokenize_chinese_chars": False}},
    "a config that no class listens to": {"tokenizer.json": file_of(lowercase=False), "tokenizer_config.json": GENERIC | {"do_lower_case": True}},
}  # fmt: skip


def written(folder, files):
    folder.mkdir()
    for name, content in files.items():
        text = old_words() if name == "vocab.txt" else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(params=LAYOUTS)
def folder(request, tmp_path):
    return written(tmp_path / "model", LAYOUTS[request.param])


def flags(tokenizer):
    tokens = tokenizer.added_tokens_decoder.values()
    return {t.content: (t.special, t.normalized, t.single_word, t.lstrip, t.rstrip) for t in tokens}


def test_a_folder_is_read_as_transformers_opens_it(folder):
    opened, read = AutoTokenizer.from_pretrained(folder), read_vocabulary(folder)
    assert dict(read.ids) == opened.get_vocab()
    assert [read.segmenter().encode(text).ids for text in TEXTS] == opened(TEXTS)["input_ids"]


@pytest.mark.parametrize("folder", [layout for layout in LAYOUTS if "config.json" not in LAYOUTS[layout]], indirect=True)  # fmt: skip
def test_no_token_of_a_trim_has_other_flags(folder, tmp_path):
    (tmp_path / "en.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    trim(folder, {"en": tmp_path / "en.txt"}, tmp_path / "small")
    before, after = (AutoTokenizer.from_pretrained(f) for f in (folder, tmp_path / "small"))
    assert flags(after) == flags(before)
    assert after.all_special_tokens == before.all_special_tokens
    assert [after.tokenize(text) for text in TEXTS] == [before.tokenize(text) for text in TEXTS]
    cut, whole = ([one.decode(ids, skip_special_tokens=True) for ids in one(TEXTS)["input_ids"]] for one in (after, before))  # fmt: skip
    assert cut == whole


def test_a_file_with_nothing_else_to_read_it_by_stands_as_it_is(tmp_path):
    folder = written(tmp_path / "model", {"tokenizer.json": file_of(lowercase=False), "added_tokens.json": NEW})  # fmt: skip
    assert len(read_vocabulary(folder)) == SIZE


def test_what_transformers_cannot_open_is_one_sentence(tmp_path):
    folder = written(tmp_path / "model", {"tokenizer.json": CUT, "tokenizer_config.json": BERT | {"added_tokens_decoder": {"x": {"content": "a"}}}})  # fmt: skip
    with pytest.raises(VocabularyError, match="transformers makes no fast tokenizer of it"):
        read_vocabulary(folder)
