import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toyworld import World
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from teacherzoo.cli.app import app
from teacherzoo.encoders.teachers import Teacher, load_teacher
from teacherzoo.errors import CorpusError, RecordError, TeacherError
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher
from teacherzoo.rank.bits_per_byte import bits_per_byte
from teacherzoo.rank.rank import rank
from teacherzoo.text.corpora import Corpus

TINY = PretrainingConfig(vocabulary=400, layers=1, width=32, steps=40, batch=16, length=32)
TEXT = ["Anna sees the old house.", "The house is old, and Anna knows it well."]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher for each of two languages in different scripts, and each one's text."""
    folder = tmp_path_factory.mktemp("rank")
    world = World(seed=0)
    latin, other = world.languages[0], _in_another_script(world)
    found = {}
    for language in (latin, other):
        file = folder / f"{language}.txt"
        file.write_text("\n".join(world.sentences(language, 1500)) + "\n", encoding="utf-8")
        corpus = Corpus(language, file, held_out_share=0.1)
        found[language] = pretrain_teacher([corpus], folder / language, config=TINY).folder
    return found


def _in_another_script(world: World) -> str:
    return next(
        language
        for language in world.languages
        if ord(max(next(iter(world.sentences(language, 1))))) > 0x250
    )


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("english")
    file = folder / "en.txt"
    file.write_text("\n".join(f"{line} {number}" for number in range(40) for line in TEXT))
    plan = replace(TINY, vocabulary=90, steps=2, family="unigram")
    return load_teacher(
        pretrain_teacher([Corpus("en", file, held_out_share=0)], folder / "t", config=plan).folder
    )


def test_a_corpus_with_a_limit_is_read_no_further(english: Teacher) -> None:
    folder = english.folder.parent
    corpus = Corpus("en", folder / "en.txt", limit=3)

    words = [
        rank([str(english.folder)], [corpus], documents=most).ratings[0].words for most in (2, 10)
    ]

    texts = [document.text for document in corpus.documents()]
    assert words == [sum(len(text.split()) for text in texts[:most]) for most in (2, 3)]


def test_each_teacher_wins_its_own_language(pretrained: dict[str, Path]) -> None:
    corpora = [
        Corpus(language, folder.with_suffix(".txt"), part="held_out", held_out_share=0.1)
        for language, folder in pretrained.items()
    ]

    ranking = rank([str(folder) for folder in pretrained.values()], corpora, documents=40)

    assert ranking.assignment == {language: str(folder) for language, folder in pretrained.items()}
    assert ranking.teachers == [
        {"teacher": str(folder), "languages": [language]} for language, folder in pretrained.items()
    ]
    latin, other = pretrained
    stranger = next(
        each
        for each in ranking.ratings
        if each.language == other and each.teacher == str(pretrained[latin])
    )
    assert stranger.left_out > 0.8  # it cannot spell the other script, and pays for it
    assert stranger.charged_bits_per_byte > 6


def test_a_uniform_teacher_needs_the_logarithm_of_its_vocabulary(english: Teacher) -> None:
    teacher = replace(
        english,
        head=replace(
            english.head,
            weight=torch.zeros_like(english.head.weight),
            bias=None,
        ),
    )

    found = bits_per_byte(teacher, TEXT)

    counted = found.pieces  # every word can be spelled, so each piece is asked for once
    assert found.left_out_words == 0
    assert found.bits == pytest.approx(counted * math.log2(teacher.vocabulary_size), rel=1e-5)
    assert found.bytes == sum(len(word.encode()) for line in TEXT for word in line.split())
    assert found.value == found.charged == found.bits / found.bytes


def test_every_word_is_hidden_once_and_seen_otherwise(english: Teacher) -> None:
    from teacherzoo.rank.bits_per_byte import _blocks, _passes, _units
    from teacherzoo.text.blocks import TokenFrame

    frame = TokenFrame.of(english.backend)
    mask = english.space.mask
    for units in _units(english, TEXT, 60):
        for block in _blocks(units, 60):
            passes = list(_passes(block, frame, mask, 0.15))
            hidden = sorted(place for each in passes for place in each.positions)
            inside = sum(len(unit.pieces) for unit in block)
            assert hidden == list(range(len(frame.before), len(frame.before) + inside))
            for each in passes:
                assert [
                    i for i, piece in enumerate(each.input_ids) if piece == mask
                ] == each.positions


def test_the_figure_does_not_depend_on_what_shares_a_batch(english: Teacher) -> None:
    together = bits_per_byte(english, TEXT)
    apart = [bits_per_byte(english, [line]) for line in TEXT]

    assert together.bits == pytest.approx(sum(each.bits for each in apart), rel=1e-5)
    assert together.bytes == sum(each.bytes for each in apart)


def test_words_that_cannot_be_spelled_are_left_out_and_charged(english: Teacher) -> None:
    found = bits_per_byte(english, ["Anna sees 是的 it"])

    assert (found.words, found.left_out_words) == (4, 1)
    assert found.left_out_bytes == 6
    assert found.charged == pytest.approx((found.bits + 48) / (found.bytes + 6))


def test_long_documents_are_cut_between_words(english: Teacher) -> None:
    whole = bits_per_byte(english, [" ".join(TEXT * 8)], max_length=24)

    assert whole.left_out_words == 0
    assert whole.words == 8 * sum(len(line.split()) for line in TEXT)


def test_a_paragraph_without_spaces_is_measured_clause_by_clause(tmp_path: Path) -> None:
    clauses = ["起初，", "神创造天地。」", "地是空虚混沌；", "渊面黑暗"]
    paragraph = "".join(clauses) * 8
    file = tmp_path / "zh.txt"
    file.write_text("\n".join(f"{paragraph}{number}" for number in range(10)), encoding="utf-8")
    plan = replace(TINY, vocabulary=60, steps=2)
    teacher = load_teacher(
        pretrain_teacher([Corpus("zh", file, held_out_share=0)], tmp_path / "t", config=plan).folder
    )

    found = bits_per_byte(teacher, [paragraph], max_length=24)

    # Without a mark behind it the last clause goes on in the first one of the next round.
    assert found.words == 4 + 3 * 7
    assert found.left_out_words == 0
    assert found.bytes == len(paragraph.encode())
    assert found.charged < 8  # what words that cannot be spelled, or are longer than a row, cost


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("မြန်မာနိုင်ငံသည်၊အရှေ့တောင်အာရှတွင် ရှိသည်။ရန်ကုန်သည်", 4),
        ("ខ្ញុំ\u200bស្រឡាញ់\u200bភាសាខ្មែរ។អ្នករស់នៅភ្នំពេញ៖តើ", 5),
        ("ประเทศไทย ตั้งอยู่ในเอเชีย๚๛กรุงเทพฯ", 3),
    ],
    ids=["Burmese", "Khmer", "Thai"],
)
def test_words_of_scripts_of_the_south_east_end_at_spaces_and_at_their_marks(
    english: Teacher, text: str, words: int
) -> None:
    found = bits_per_byte(english, [text])

    assert found.words == words
    assert found.left_out_bytes == len(text.replace(" ", "").encode())


def test_text_without_a_word_is_refused(english: Teacher) -> None:
    with pytest.raises(CorpusError, match="no word"):
        bits_per_byte(english, [" ", ""])


def test_a_teacher_whose_weights_are_damaged_is_never_the_best_one(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(teacher, tmp_path / "damaged")
    model = AutoModelForMaskedLM.from_pretrained(teacher)
    with torch.no_grad():
        model.get_input_embeddings().weight[20:] = float("nan")
    model.save_pretrained(damaged)

    with pytest.raises(TeacherError, match=r"damaged: its logits are not finite .* on en"):
        rank([damaged, teacher], [Corpus("en", text)], documents=20)


def test_rows_without_room_for_words_are_refused() -> None:
    with pytest.raises(RecordError, match="max_length must be at least 8 tokens, got 2"):
        rank(["a"], [], max_length=2)


def test_a_teacher_given_twice_is_refused() -> None:
    with pytest.raises(RecordError, match="teacher 'a' is given twice"):
        rank(["a", "a"], [])


def test_the_command_prints_a_table_an_assignment_and_json(pretrained: dict[str, Path]) -> None:
    arguments = [
        "rank",
        *map(str, pretrained.values()),
        "--documents",
        "5",
        "--held-out-share",
        "0.1",
    ]
    for language, folder in pretrained.items():
        arguments += ["--corpus", f"{language}={folder.with_suffix('.txt')}"]

    table = CliRunner().invoke(app, arguments)
    as_json = CliRunner().invoke(app, [*arguments, "--json"])

    assert table.exit_code == 0, table.output
    assert "bits/byte" in table.stdout
    assert "For a recipe:" in table.stdout
    found = json.loads(as_json.stdout)
    assert set(found["assignment"]) == set(pretrained)
    assert len(found["ratings"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "mbert-case"], "did you mean 'mbert-cased'?"),
        (["rank", "nowhere/t", "--corpus", "de"], "--corpus must be LANGUAGE=SOURCE, got 'de'."),
        (["check", "missing.yaml"], "missing.yaml: the catalogue cannot be read"),
        (
            ["pretrain", "--corpus", "de=missing.txt", "-o", "t"],
            "de: there is no file missing.txt; give its path.\n",
        ),
    ],
)
def test_the_commands_refuse_in_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_list_and_show_speak_of_the_catalogue() -> None:
    listed = CliRunner().invoke(app, ["list", "--language", "tr", "--json"])
    shown = CliRunner().invoke(app, ["show", "beto-cased"])

    assert "berturk-cased" in [entry["name"] for entry in json.loads(listed.stdout)]
    assert "licence:        not certain" in shown.stdout
