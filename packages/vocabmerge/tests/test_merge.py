"""Unions: their laws on every family, and what they refuse."""

import json

import numpy as np
import pytest

from vocabmerge import (
    VocabularyError,
    compare_segmentation,
    find_conflicts,
    load_map,
    merge_vocabularies,
    open_tokenizer,
    overlap,
    parse_vocabulary,
    save_merged,
)

MIXES = {
    "wordpiece": ("wordpiece", "wordpiece"),
    "unigram": ("unigram", "unigram"),
    "bpe-byte": ("bpe-byte", "bpe-byte"),
    "bpe-metaspace": ("bpe-metaspace", "bpe-metaspace"),
    "bpe-byte-fallback": ("bpe-byte-fallback", "bpe-byte-fallback"),
    "bpe-plain": ("bpe-plain", "bpe-plain"),
    "words and scores": ("wordpiece", "unigram"),
    "words and bytes": ("wordpiece", "bpe-byte"),
    "scores and bytes": ("unigram", "bpe-byte"),
    "wordlevel": ("wordlevel", "wordlevel"),
    "whole words and scores": ("wordlevel", "unigram"),
    "fallback and metaspace": ("bpe-byte-fallback", "bpe-metaspace"),
}


def test_a_token_for_whole_words_alone_is_refused_by_name(trained):
    tokenizer = json.loads(json.dumps(trained("wordpiece").tokenizer))
    flags = {"special": False, "normalized": True, "lstrip": False, "rstrip": False}
    token = {"id": len(trained("wordpiece")), "content": "an", "single_word": True, **flags}
    teachers = [
        parse_vocabulary({**tokenizer, "added_tokens": [*tokenizer["added_tokens"], {**token, "content": content}]}, name=content)
        for content in ("a", "aaneanas")
    ]  # fmt: skip

    merge_vocabularies(teachers[:1], languages={"aa": "a"})  # a piece of the model
    with pytest.raises(VocabularyError, match=r"aaneanas: its added token 'aaneanas' stands for whole words alone"):  # fmt: skip
        merge_vocabularies(teachers, languages={"aa": "a"})


@pytest.fixture(scope="session")
def texts(lines_of):
    return {code: lines_of(code, 300) for code in ("aa", "bb")}


@pytest.fixture(scope="session")
def union_of(trained, texts):
    """The union of two teachers, made once per mix."""
    known = {}

    def get(mix):
        if mix not in known:
            one, two = MIXES[mix]
            teachers = [trained(one, "aa", name="A"), trained(two, "bb", name="B")]
            known[mix] = (
                teachers,
                merge_vocabularies(
                    teachers, languages={"aa": "A", "bb": "B"}, corpora=texts, normalizer="keep"
                ),
            )
        return known[mix]

    return get


@pytest.fixture(params=MIXES)
def mix(request):
    return request.param


def pieces_of(union):
    vocab = union.tokenizer["model"]["vocab"]
    return list(vocab) if isinstance(vocab, dict) else [entry[0] for entry in vocab]


def test_language_tokenizers_segment_exactly_as_their_teachers(union_of, lines_of, mix):
    teachers, union = union_of(mix)
    strange = ["", "  two  spaces ", "☃ 中文 é e\u0301 ß", "a\tb\nc", "0123456789" * 15]
    for teacher, code in zip(teachers, ("aa", "bb"), strict=True):
        rows = union.maps[teacher.name].one_to_one()
        before = teacher.segmenter()
        own = open_tokenizer(union.teachers[teacher.name], name="own")
        for line in [*lines_of(code, 200, seed=9), *lines_of("cc", 5), *strange]:
            for pair in ((line,), (line, "7")):
                assert own.encode(*pair).ids == rows[before.encode(*pair).ids].tolist()
        masked = before.encode(f"x {teacher.specials['mask']}, y").ids
        assert own.encode("x [MASK], y").ids == rows[masked].tolist()


def test_the_union_stays_in_the_family_of_its_teachers(union_of, mix):
    teachers, union = union_of(mix)
    families = {teacher.family for teacher in teachers}
    expected = families.pop() if len(families) == 1 else "unigram"
    assert parse_vocabulary(union.tokenizer, name="union").family == expected


def test_ids_are_dense_and_specials_are_in_the_model(union_of, mix):
    _, union = union_of(mix)
    opened = open_tokenizer(union.tokenizer, name="union")
    numbers = sorted(opened.get_vocab(with_added_tokens=True).values())
    assert numbers == list(range(union.facts["size"]))
    assert opened.get_vocab_size(with_added_tokens=False) == union.facts["size"]
    for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]):
        assert opened.token_to_id(token) == number
    assert opened.encode("[MASK]").ids == [2, 4, 3]
    assert opened.encode("[MASK]", "[MASK]").type_ids == [0, 0, 0, 1, 1]


def test_special_tokens_are_unified_by_role(union_of, mix):
    teachers, union = union_of(mix)
    for teacher in teachers:
        rows = union.maps[teacher.name].one_to_one()
        roles = ("pad", "unk", "cls", "sep", "mask")
        assert [int(rows[teacher.special_id(role)]) for role in roles] == [0, 1, 2, 3, 4]


def test_no_two_pieces_of_a_teacher_share_a_row(union_of, mix):
    teachers, union = union_of(mix)
    for teacher in teachers:
        rows = union.maps[teacher.name].one_to_one()
        assert len(np.unique(rows[rows >= 0])) == (rows >= 0).sum() == len(teacher)


def test_there_and_back_again_is_the_identity_on_one_to_one_pieces(union_of, mix):
    teachers, union = union_of(mix)
    for teacher in teachers:
        forth = union.maps[teacher.name]
        assert forth.compose(forth.inverse()).one_to_one().tolist() == list(range(len(teacher)))


def test_mapped_pieces_keep_their_canonical_key(union_of, mix):
    teachers, union = union_of(mix)
    read = parse_vocabulary(union.tokenizer, name="union")
    for teacher in teachers:
        for old, row in enumerate(union.maps[teacher.name].one_to_one().tolist()):
            if (
                teacher.roles[old] not in ("normal", "character")
                or read.roles[row] == "placeholder"
            ):
                continue
            if teacher.keys[old][0] != "isolated":
                assert read.keys[row] == teacher.keys[old]


# Of what is unknown to a teacher of whole words, a union of several families spells more than its teacher.
@pytest.mark.parametrize("mix", sorted({*MIXES} - {"bpe-plain", "whole words and scores"}))
def test_the_union_is_far_more_faithful_than_add_tokens(union_of, mix):
    _, union = union_of(mix)
    alike = np.mean([one.words_alike for one in union.fidelity.values()])
    shortcut = np.mean([one["words_cut_alike"] for one in union.facts["add_tokens"].values()])
    assert alike > (0.85 if mix.startswith("bpe") else 0.9)
    assert alike > shortcut or mix.startswith("bpe")


@pytest.mark.parametrize("family", ["wordpiece", "unigram", "bpe-byte", "bpe-metaspace"])
def test_merging_with_itself_is_the_identity(trained, texts, family):
    one, two = trained(family, name="A"), trained(family, name="B")
    union = merge_vocabularies(
        [one, two],
        languages={"aa": "A", "bb": "B"},
        corpora={"aa": texts["aa"], "bb": texts["aa"]},
        convention="bert" if family == "wordpiece" else "roberta",
    )
    assert pieces_of(union) == list(one.pieces)
    assert union.maps["A"].one_to_one().tolist() == union.maps["B"].one_to_one().tolist()
    for fidelity in union.fidelity.values():
        assert fidelity.words_alike == fidelity.sentences_alike == 1
    if family == "unigram":
        scores = [score for _, score in union.tokenizer["model"]["vocab"]]
        normal = one.having("normal", "character")
        assert np.allclose(np.array(scores)[normal], one.scores[normal], rtol=0, atol=1e-9)


@pytest.mark.parametrize("mix", ["wordpiece", "unigram", "bpe-byte", "words and scores"])
def test_merging_is_commutative_up_to_order(union_of, texts, mix):
    teachers, union = union_of(mix)
    turned = merge_vocabularies(
        teachers[::-1], languages={"aa": "A", "bb": "B"}, corpora=texts, normalizer="keep"
    )

    def visible(pieces):
        return {piece for piece in pieces if not piece.startswith("[hole")}

    assert visible(pieces_of(turned)) == visible(pieces_of(union))
    for code, fidelity in union.fidelity.items():
        assert turned.fidelity[code].words_alike == pytest.approx(fidelity.words_alike, abs=0.01)


def test_the_same_inputs_give_the_same_bytes(union_of, texts):
    teachers, union = union_of("words and scores")
    again = merge_vocabularies(
        teachers, languages={"aa": "A", "bb": "B"}, corpora=texts, normalizer="keep"
    )
    assert json.dumps(again.tokenizer) == json.dumps(union.tokenizer)
    assert again.facts == union.facts


def test_roberta_keeps_pad_where_its_positions_expect_it(trained):
    union = merge_vocabularies(
        [trained("wordpiece", name="A")], languages={"aa": "A"}, convention="roberta"
    )
    opened = open_tokenizer(union.tokenizer, name="union")
    assert [opened.token_to_id(token) for token in ("<s>", "<pad>", "</s>")] == [0, 1, 2]
    assert opened.encode("x", "x").ids.count(2) == 3


def test_padding_rounds_the_size_up_and_max_size_bounds_it(trained, texts, lines_of):
    teachers = [trained("wordpiece", "aa", name="A"), trained("bpe-byte", "bb", name="B")]
    union = merge_vocabularies(
        teachers,
        languages={"aa": "A", "bb": "B"},
        corpora=texts,
        normalizer="keep",
        max_size=600,
        pad_to=64,
    )
    assert union.facts["size"] % 64 == 0
    assert union.facts["size"] <= 600
    counts = union.maps["B"].counts
    assert counts["one_to_several"] > 0
    assert sum(counts.values()) == len(teachers[1])
    assert union.facts["teachers"][1]["one_to_several"] == counts["one_to_several"]
    assert all(one.unknown == 0 for one in union.fidelity.values())


def test_padding_of_a_union_that_nearly_fills_max_size_does_not_exceed_it(trained, texts):
    given = {"languages": {"aa": "A"}, "corpora": {"aa": texts["aa"]}}
    size = len(merge_vocabularies([trained("wordpiece", "aa", name="A")], **given).tokenizer["model"]["vocab"])  # fmt: skip
    assert size % 64
    padded = merge_vocabularies([trained("wordpiece", "aa", name="A")], **given, max_size=size + 1, pad_to=64)  # fmt: skip
    assert padded.facts["size"] == size // 64 * 64


def test_a_cut_piece_is_spelled_by_the_pieces_that_stayed(trained, texts):
    teacher = trained("wordpiece", "aa", name="A")
    union = merge_vocabularies(
        [teacher], languages={"aa": "A"}, corpora={"aa": texts["aa"]}, max_size=250
    )
    read = parse_vocabulary(union.tokenizer, name="union")
    several = [old for old in range(len(teacher)) if len(union.maps["A"][old]) > 1]
    assert several
    for old in several:
        parts = [read[int(row)].key for row in union.maps["A"][old]]
        assert b"".join(text for _, text in parts) == teacher[old].key[1]
        assert parts[0][0] == teacher[old].key[0]


def test_a_byte_level_union_reaches_text_that_no_teacher_saw(union_of):
    _, union = union_of("words and bytes")
    opened = open_tokenizer(union.tokenizer, name="union")
    ids = opened.encode("☃ 中文", add_special_tokens=False).ids
    assert 1 not in ids
    assert opened.decode(ids) == "☃ 中文"


@pytest.mark.parametrize("mix", ["words and bytes", "scores and bytes"])
def test_text_that_spells_a_fallback_byte_is_not_that_byte(union_of, mix):
    _, union = union_of(mix)
    opened = open_tokenizer(union.tokenizer, name="union")
    assert opened.token_to_id("<0xE4>") is not None
    assert "<0xE4>" not in opened.encode("<0xE4>", add_special_tokens=False).tokens
    assert "<0xE4>" in opened.encode("䀀 ", add_special_tokens=False).tokens  # e4 80 80


def test_conflicting_normalizers_are_named_and_refused_without_a_policy(trained):
    folded = json.loads(json.dumps(trained("wordpiece").tokenizer))
    folded["normalizer"] |= {"lowercase": True, "strip_accents": True}
    teachers = [trained("wordpiece", name="cased"), parse_vocabulary(folded, name="uncased")]
    assert find_conflicts(teachers) == [
        "case: cased kept, uncased folded",
        "accents: cased kept, uncased stripped",
        "Unicode form: cased as is, uncased NFD",  # Hangul falls apart where accents are stripped
    ]
    with pytest.raises(VocabularyError, match="case: cased kept, uncased folded") as caught:
        merge_vocabularies(teachers, languages={})
    assert all(policy in str(caught.value) for policy in ("keep", "fold", "first"))


@pytest.mark.parametrize(("policy", "out"), [("keep", "Á"), ("fold", "a"), ("first", "Á")])
def test_a_policy_decides_the_unions_normalizer(trained, policy, out):
    folded = json.loads(json.dumps(trained("wordpiece").tokenizer))
    folded["normalizer"] |= {"lowercase": True, "strip_accents": True}
    teachers = [trained("wordpiece", name="cased"), parse_vocabulary(folded, name="uncased")]
    union = merge_vocabularies(teachers, languages={}, normalizer=policy)
    opened = open_tokenizer(union.tokenizer, name="union")
    assert opened.normalizer.normalize_str("Á") == out


@pytest.mark.parametrize("convention", ["bert", "roberta"])
def test_a_cased_union_of_an_uncased_teacher_keeps_its_unknown_piece(trained, texts, convention):
    folded = json.loads(json.dumps(trained("wordpiece").tokenizer))
    folded["normalizer"] |= {"lowercase": True, "strip_accents": True}
    teachers = [trained("wordpiece", name="cased"), parse_vocabulary(folded, name="uncased")]
    union = merge_vocabularies(
        teachers,
        languages={"aa": "uncased"},
        corpora={"aa": [line.upper() for line in texts["aa"]]},
        normalizer="keep",
        convention=convention,
    )
    opened = open_tokenizer(union.tokenizer, name="union")
    unknown = union.tokenizer["model"]["unk_token"]
    assert opened.encode("\u2603", add_special_tokens=False).tokens == [unknown]


@pytest.mark.parametrize(
    ("normalizer", "form"),
    [
        (None, "as is"),
        ({"type": "NFC"}, "NFC"),
        ({"type": "NFD"}, "NFD"),
        ({"type": "NFKC"}, "NFKC"),
        ({"type": "NFKD"}, "NFKD"),
    ],
)
def test_unicode_forms_are_told_apart(trained, normalizer, form):
    from vocabmerge.union.conflicts import behaviour

    other = {**trained("unigram").tokenizer, "normalizer": normalizer}
    assert behaviour(parse_vocabulary(other, name="T")).form == form


def test_what_cannot_be_merged_is_refused_by_name(trained, texts):
    one, two = trained("wordpiece", name="A"), trained("unigram", "bb", name="B")
    speaks = {"aa": "A", "bb": "B"}
    for wrong, says in (
        ({"teachers": [], "languages": {}}, "nothing to merge"),
        ({"teachers": [one, one], "languages": {}}, "different names"),
        ({"teachers": [one], "languages": {"aa": "C"}}, "'aa'.*'C'"),
        (
            {"teachers": [one], "languages": {}, "corpora": texts},
            "'aa' has a corpus and no teacher",
        ),
        ({"teachers": [one], "languages": {"aa": "A"}, "corpora": {"aa": []}}, "'aa'.*empty"),
        ({"teachers": [one], "languages": {}, "convention": "t5"}, "'t5'"),
        ({"teachers": [one], "languages": {}, "pad_to": 0}, "pad_to"),
        ({"teachers": [one, two], "languages": speaks}, "need a corpus for every language"),
        ({"teachers": [one], "languages": {"aa": "A"}, "max_size": 100}, "max_size need a corpus"),
    ):
        arguments = dict(wrong)
        with pytest.raises(VocabularyError, match=says):
            merge_vocabularies(arguments.pop("teachers"), **arguments)


def test_a_saved_union_opens_in_transformers(tmp_path, union_of):
    transformers = pytest.importorskip("transformers")
    _, union = union_of("words and scores")
    save_merged(union, tmp_path / "union")
    for folder in ("", "languages/aa", "languages/bb"):
        where = tmp_path / "union" / folder
        opened = transformers.AutoTokenizer.from_pretrained(where)
        assert opened.is_fast
        assert len(opened) == union.facts["size"]
        assert (opened.pad_token_id, opened.mask_token_id) == (0, 4)
        raw = open_tokenizer(json.loads((where / "tokenizer.json").read_text()), name="raw")
        text = "(tok) [MASK], ni 7."
        assert opened(text)["input_ids"] == raw.encode(text).ids
        opened.save_pretrained(tmp_path / "again")
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
        assert again(text)["input_ids"] == opened(text)["input_ids"]
    saved = load_map(tmp_path / "union" / "maps" / "A.safetensors")
    assert saved.student_digest == union.facts["digest"]
    assert json.loads((tmp_path / "union" / "report.json").read_text())["size"] == len(opened)
    page = (tmp_path / "union" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2


def test_a_failed_save_leaves_nothing_behind(tmp_path, union_of, monkeypatch):
    _, union = union_of("wordpiece")
    monkeypatch.setattr(
        "vocabmerge.union.folder.report_page", lambda facts: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        save_merged(union, tmp_path / "union")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path, union_of):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VocabularyError, match="not empty"):
        save_merged(union_of("wordpiece")[1], tmp_path)


def test_fidelity_agrees_with_a_plain_reading_of_the_tokens(union_of, lines_of):
    """A slow oracle: walk every word, collect the tokens over it, compare."""
    _teachers, union = union_of("words and scores")
    lines = lines_of("aa", 40, seed=3)
    tested = open_tokenizer(union.tokenizer, name="union")
    own = open_tokenizer(union.teachers["A"], name="own")
    words = alike = 0
    for line in lines:
        sides = [side.encode(line, add_special_tokens=False) for side in (tested, own)]
        start = 0
        while start < len(line):
            if not line[start].isalnum():
                start += 1
                continue
            end = start
            while end < len(line) and line[end].isalnum():
                end += 1
            found = []
            for side in sides:
                over = []
                for number, (first, last) in zip(side.ids, side.offsets, strict=True):
                    lead = len(line[first:last]) - len(line[first:last].lstrip())
                    if first + lead < end and last > start:
                        over.append((number, first + lead, last))
                found.append(over)
            words += 1
            alike += found[0] == found[1]
            start = end
    result = compare_segmentation(tested, own, lines)
    assert result.words == words
    assert result.words_alike == pytest.approx(alike / words, abs=1e-12)


def test_canonical_keys_find_what_raw_strings_cannot(trained):
    """The same pieces under two markers: nearly all are shared by key, nearly none by string."""
    unigram = trained("unigram")
    vocab = {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    for old in unigram.having("normal", "character").tolist():
        word, text = unigram[old].key
        if text:
            vocab.setdefault(("" if word == "initial" else "##") + text.decode(), len(vocab))
    respelled = {
        **trained("wordpiece").tokenizer,
        "model": {**trained("wordpiece").tokenizer["model"], "vocab": vocab},
    }
    found = overlap([unigram, parse_vocabulary(respelled, name="respelled")])
    assert found["shared"][0][1] > 7 * found["raw"][0][1]
    assert found["shared"][0][1] >= 0.97 * found["sizes"][0]
    assert found["shared"] == [list(row) for row in zip(*found["shared"], strict=True)]


def test_two_pieces_of_one_meaning_keep_a_row_each(trained, texts):
    """An isolated comma and a word-internal one are the same piece under `▁`; the second is out of the union's reach."""
    tokenizer = json.loads(json.dumps(trained("wordpiece").tokenizer))
    vocab = tokenizer["model"]["vocab"]
    for piece in (",", "##,"):
        vocab.setdefault(piece, len(vocab))
    one, two = parse_vocabulary(tokenizer, name="A"), trained("unigram", "bb", name="B")
    union = merge_vocabularies(
        [one, two], languages={"aa": "A", "bb": "B"}, corpora=texts, normalizer="keep"
    )
    rows = union.maps["A"].one_to_one()
    isolated, internal = int(rows[vocab[","]]), int(rows[vocab["##,"]])
    assert isolated != internal
    assert pieces_of(union)[isolated] == ","
    assert pieces_of(union)[internal] == f"[hole {internal}]"
    assert union.facts["language_only_rows"] >= 1
