"""Reading: what a piece is, where it stands, and what refuses to be read."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from vocabmerge import (
    Vocabulary,
    VocabularyError,
    parse_vocabulary,
    read_vocabulary,
    tokenizer_digest,
    trim_vocabulary,
)
from vocabmerge.families.pieces import BYTE_ALPHABET
from vocabmerge.tokenizer_file import library_form


def test_importing_needs_neither_torch_nor_transformers():
    code = (
        "import sys, vocabmerge, vocabmerge.cli.app; "
        "print([m for m in ('torch', 'transformers', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_family_is_recognised(trained, family):
    assert trained(family).family == family


def test_pieces_have_the_ids_of_the_library(trained, family):
    read = trained(family)
    assert dict(read.ids) == read.segmenter().get_vocab(with_added_tokens=True)


def test_pieces_of_a_text_spell_it_by_their_canonical_bytes(trained, family, lines_of):
    """The keys' bytes, with a space before each word start, are the text: an oracle that knows no markers."""
    read = trained(family)
    for line in lines_of("aa", 20, seed=5):
        ids = read.segmenter().encode(line, add_special_tokens=False).ids
        pieces = [read[i].key for i in ids]
        if read.special_id("unk") in ids:
            continue
        spelled = b"".join(
            (b" " if word == "initial" else b"") + text for word, text in pieces
        ).decode()
        # Plain BPE marks the ends of words, and its keys keep the mark.
        assert spelled.replace(" ", "").replace("</w>", "") == line.replace(" ", "")
        if family not in ("wordpiece", "bpe-plain"):  # these two do not tell every word start
            assert spelled.strip() == line


@pytest.mark.parametrize(
    ("family", "initial", "internal"),
    [("wordpiece", "ab", "##ab"), ("unigram", "▁ab", "ab"), ("bpe-byte", "Ġab", "ab")],
)
def test_one_meaning_has_one_key_in_every_family(trained, family, initial, internal):
    read = trained(family).model.key
    assert read(initial) == ("initial", b"ab")
    assert read(internal) == ("internal", b"ab")


def test_bare_punctuation_is_isolated_only_in_wordpiece(trained):
    def key(family):
        return trained(family).model.key(",")

    assert key("wordpiece") == ("isolated", b",")
    assert key("unigram") == key("bpe-byte") == ("internal", b",")


def test_the_byte_alphabet_is_the_librarys():
    assert set(BYTE_ALPHABET.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    shown = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(128):
        [(piece, _)] = shown.pre_tokenize_str(chr(byte))
        assert BYTE_ALPHABET[byte] == piece


def test_partial_utf8_pieces_keep_their_bytes(trained):
    read = trained("bpe-byte", "cc")
    partial = [
        key
        for key, role in zip(read.keys, read.roles, strict=True)
        if role == "normal" and b"\xef\xbf\xbd" in key[1].decode("utf-8", "replace").encode()
    ]
    assert partial
    assert len({key for key in read.keys if key is not None}) == len(read)


def test_roles_are_told_apart(trained):
    read = trained("bpe-byte-fallback")
    assert len(read.having("byte")) == 256
    assert len(read.having("special")) == 5
    assert "character" in read.roles


def test_scores_and_ranks_are_the_models(trained):
    unigram, bpe = trained("unigram"), trained("bpe-byte")
    number = len(unigram) - 1
    assert unigram[number].score == unigram.tokenizer["model"]["vocab"][number][1]
    left, right = bpe.tokenizer["model"]["merges"][3]
    assert bpe[bpe.ids[left + right]].rank == 3


def test_holes_in_the_ids_are_read_and_named(trained):
    tokenizer = json.loads(json.dumps(trained("wordpiece").tokenizer))
    vocab = tokenizer["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    vocab[last] += 3
    read = parse_vocabulary(tokenizer, name="gappy")
    assert len(read) == vocab[last] + 1
    assert read.roles[vocab[last] - 1] == "hole"
    with pytest.raises(VocabularyError, match="hole"):
        read[vocab[last] - 1]


def test_an_id_beyond_all_tables_is_refused_before_memory_is_taken_for_it(trained):
    tokenizer = json.loads(json.dumps(trained("wordpiece").tokenizer))
    vocab = tokenizer["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    vocab[last] = 2**24
    with pytest.raises(
        VocabularyError, match=f"gappy: expected ids below 16,777,216, got 16,777,216 .*'{last}'"
    ):
        parse_vocabulary(tokenizer, name="gappy")


@given(st.randoms())
@settings(max_examples=10, deadline=None)
def test_the_digest_does_not_depend_on_key_order(random):
    def shuffled(value):
        if isinstance(value, dict):
            keys = list(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return value

    tokenizer = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "added_tokens": [],
        "decoder": None,
    }
    assert tokenizer_digest(tokenizer) == tokenizer_digest(shuffled(tokenizer))


def test_the_digest_survives_the_library_and_changes_with_an_id(trained, family):
    read = trained(family)
    again = json.loads(read.segmenter().to_str())
    assert tokenizer_digest(again) == read.digest
    vocab = again["model"]["vocab"]
    if isinstance(vocab, dict):
        one, two = list(vocab)[-2:]
        vocab[one], vocab[two] = vocab[two], vocab[one]
    else:
        vocab[-1], vocab[-2] = vocab[-2], vocab[-1]
    assert tokenizer_digest(again) != read.digest


def test_a_folder_names_its_special_tokens(tmp_path, trained):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(trained("unigram").tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "</s>"}))
    read = read_vocabulary(folder)
    assert read.name == "teacher"
    assert read.specials["cls"] == "</s>"
    assert read.special_id("pad") == 1


def test_a_bare_vocab_txt_is_read_through_transformers(tmp_path, trained):
    pytest.importorskip("transformers")
    source = trained("wordpiece")
    (tmp_path / "vocab.txt").write_text("\n".join(source.pieces) + "\n")
    read = read_vocabulary(tmp_path / "vocab.txt")
    assert isinstance(read, Vocabulary)
    assert list(read.pieces) == list(source.pieces)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "expected a fast tokenizer"),
        (
            '{"model": {"type": "Sentences", "vocab": {}, "unk_token": "?"}}',
            "the tokenizers library cannot open it",
        ),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content, says):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(VocabularyError, match=says):
        read_vocabulary(file)


def test_a_missing_folder_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(VocabularyError, match="nothing is downloaded"):
        read_vocabulary(tmp_path / "nowhere")
    with pytest.raises(VocabularyError, match=r"no tokenizer\.json"):
        read_vocabulary(tmp_path)


def test_a_slow_only_tokenizer_is_refused_with_the_next_step(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<unk>": 1}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CanineTokenizer"})
    )
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path)


def test_nobody_is_asked_whether_code_of_a_tokenizer_may_run(tmp_path, monkeypatch):
    """transformers asks, and after a yes gets the code from the Hub and runs it."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["someone/own--code.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    with pytest.raises(VocabularyError, match="code of its own, which is not run here"):
        read_vocabulary(tmp_path)
    assert asked == []


def test_a_file_goes_through_the_library_once(tmp_path, trained, monkeypatch):
    """Whatever is then asked of it: its pieces, its digest, a trim, the digest of the trim and the map between them."""
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(trained("unigram").tokenizer))
    forms = []
    rewritten = library_form._rewritten
    monkeypatch.setattr(
        library_form, "_rewritten", lambda *given: forms.append(given) or rewritten(*given)
    )
    read = read_vocabulary(file)
    cut = trim_vocabulary(read, {"aa": [1] * len(read)}, top=200)
    assert cut.map.student_digest == cut.after.digest != read.digest
    assert len(forms) == 1
