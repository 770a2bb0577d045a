"""What a union does to text: the steps that policies keep or drop, and what it says where no policy decides."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from vocabmerge import merge_vocabularies, open_tokenizer, parse_vocabulary
from vocabmerge.union.conflicts import behaviour, normalizer_notes, normalizing, union_normalizer

FOLDER = Path(__file__).parent / "real_tokenizers"
QUOTES = {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}
LOWER = {"type": "Lowercase"}


def vocabulary(name, **changes):
    tokenizer = {**json.loads((FOLDER / f"{name}.json").read_text("utf-8")), **changes}
    return parse_vocabulary(tokenizer, name=changes.pop("name", name))


def with_steps(name, *steps):
    sequence = {"type": "Sequence", "normalizers": list(steps)} if steps else None
    tokenizer = json.loads((FOLDER / "bert-base-uncased.json").read_text("utf-8"))
    return parse_vocabulary({**tokenizer, "normalizer": sequence}, name=name)


def types(steps):
    return [step["type"] for step in steps]


@pytest.mark.parametrize(("policy", "replaced"), [("keep", False), ("fold", True)])
def test_a_replacement_of_one_teacher_stays_under_fold_alone(policy, replaced):
    teachers = [with_steps("A", QUOTES, LOWER), with_steps("B")]
    steps = union_normalizer(teachers, policy)
    assert ("Replace" in types(steps)) is replaced
    assert (normalizing(steps)("``") == '"') is replaced


@pytest.mark.parametrize("policy", ["keep", "fold"])
def test_a_replacement_of_every_teacher_stays_under_every_policy(policy):
    teachers = [with_steps("A", QUOTES, LOWER), with_steps("B", QUOTES)]
    assert normalizing(union_normalizer(teachers, policy))("``") == '"'


def test_the_table_of_characters_stays_under_fold_and_is_missed_by_name_under_keep():
    teachers = [vocabulary("multilingual-e5-small"), vocabulary("bert-base-uncased")]
    fold, keep = (union_normalizer(teachers, policy) for policy in ("fold", "keep"))
    assert "Precompiled" in types(fold)
    assert "Precompiled" not in types(keep)
    assert not any("table of its own" in note for note in normalizer_notes(teachers, fold))
    assert any("multilingual-e5-small replaces characters by a table" in note for note in normalizer_notes(teachers, keep))  # fmt: skip


def test_keep_keeps_the_control_characters_that_some_teacher_keeps():
    gpt2, bert = vocabulary("gpt2"), vocabulary("bert-base-uncased")
    assert (behaviour(gpt2).controls, behaviour(bert).controls) == ("kept", "removed")
    assert normalizing(union_normalizer([bert, gpt2], "keep"))("a\u0007b") == "a\u0007b"
    assert normalizing(union_normalizer([bert, gpt2], "fold"))("a\u0007b") == "ab"
    assert normalizing(union_normalizer([bert, bert], None))("a\u0007b") == "ab"


def test_what_is_no_conflict_and_yet_differs_is_named():
    teachers = [with_steps("plain"), with_steps("quoting", QUOTES)]
    notes = normalizer_notes(teachers, union_normalizer(teachers, None))
    assert notes == ["paired quotes: quoting replaced; the union kept"]


def test_teachers_that_normalize_alike_leave_nothing_to_say():
    for name in ("multilingual-e5-small", "bert-base-uncased", "gpt2"):
        teachers = [vocabulary(name), vocabulary(name, model=vocabulary(name).tokenizer["model"])]
        assert normalizer_notes(teachers, union_normalizer(teachers, None)) == []


def test_a_unions_report_has_the_notes():
    teachers = [with_steps("plain"), with_steps("quoting", QUOTES)]
    union = merge_vocabularies(teachers, languages={})
    assert "paired quotes: quoting replaced; the union kept" in union.facts["notes"]
    assert open_tokenizer(union.tokenizer, name="union").normalizer is None


@pytest.mark.parametrize("uncased_first", [False, True])
@pytest.mark.parametrize(("policy", "spelled"), [("keep", ["Ünter"]), ("fold", ["Ünter", "unter"])])
def test_an_added_token_that_one_teacher_normalizes_is_found_in_either_order_of_teachers(
    policy, spelled, uncased_first
):
    teachers = []
    for name, normalized in (("multilingual-e5-small", False), ("bert-base-uncased", True)):
        tokenizer = Tokenizer.from_str((FOLDER / f"{name}.json").read_text("utf-8"))
        tokenizer.add_tokens([AddedToken("Ünter", normalized=normalized)])
        teachers.append(parse_vocabulary(tokenizer.to_str(), name=name))
    languages = dict(zip(("de", "en"), (teacher.name for teacher in teachers), strict=True))
    lines = ["The cat and the dog went home.", "Unter den Linden."] * 10

    union = merge_vocabularies(
        teachers[::-1] if uncased_first else teachers,
        languages=languages,
        corpora=dict.fromkeys(languages, lines),
        normalizer=policy,
    )

    opened = Tokenizer.from_str(json.dumps(union.tokenizer))
    row = opened.token_to_id("Ünter")
    found = [text for text in ("Ünter", "unter") if row in opened.encode(f"a {text} b").ids]
    assert found == spelled
