"""Teachers that cut words into other pieces, heard by the likelihood of the words; on real text, with two families."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer

from mergedistill.errors import RecipeError, StageError
from mergedistill.recipe.read import altered, read_recipe
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, recording_folder, stages
from mergedistill.run.ablate import baselines
from mergedistill.run.run import run
from mergedistill.student.initialise import new_student
from mergedistill.student.loss import DistillationLoss
from mergedistill.targets.combined import CombinedSignals
from mergedistill.targets.recorded import open_signals
from mergedistill.targets.words import WordSignals
from mergedistill.training.schedule import batch_inputs
from teacherzoo import Corpus, Masking, record

Recipes = Callable[..., Recipe]
WORDS = {"likelihood": "words"}
WHOLE = {"block_length": 64, "policy": "whole_word", "temperature": 2.0}


@pytest.fixture
def prose_recipe(families: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes of the two teachers of English, the Unigram first; they share their recordings."""

    def made(**changes: object) -> Recipe:
        stated: dict[str, object] = {
            "out": "run",
            "signals": str(families / "signals"),
            "languages": {"en": str(families / "en.txt")},
            "teachers": [
                {"teacher": str(families / "unigram"), "languages": ["en"], "weight": 2},
                {"teacher": str(families / "wordpiece"), "languages": ["en"], "weight": 1},
            ],
            "combine": WORDS,
            "held_out_share": 0.1,
            "vocabulary": {"normalizer": "keep"},
            "student": {"layers": 1, "width": 32},
            "distil": {**WHOLE, "max_lost": 1.0},
            "train": {"steps": 4, "tokens": 256, "checkpoint_every": 2},
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(stated | changes))
        return read_recipe(file)

    return made


def _signals(recipe: Recipe, language: str) -> CombinedSignals | WordSignals:
    run(recipe, until="record")
    opened = open_signals(recipe, ensembles_or_refuse(recipe), stages(recipe)["vocabulary"].folder)
    signals = opened[language]
    assert isinstance(signals, CombinedSignals | WordSignals)
    return signals


def test_almost_every_word_of_another_tokenizer_is_heard(prose_recipe: Recipes) -> None:
    heard = _signals(prose_recipe(), "en").usage()
    alike = _signals(prose_recipe(out="mixture", combine="mixture"), "en").usage()

    assert heard["unigram"].words_heard == heard["unigram"].words == alike["unigram"].words > 100
    assert heard["wordpiece"].words_heard >= 0.95 * heard["wordpiece"].words
    assert heard["wordpiece"].heard >= 0.95 * heard["wordpiece"].asked
    assert 0 < alike["wordpiece"].words_heard < 0.7 * alike["wordpiece"].words


def test_events_are_the_words_that_stand_there_and_words_of_as_many_pieces(
    prose_recipe: Recipes,
) -> None:
    recipe = prose_recipe()
    signals = _signals(recipe, "en")
    assert isinstance(signals, WordSignals)
    rows = [*range(len(signals))]
    batch, words = signals.batch(rows), signals.word_targets(rows)
    assert words is not None
    vocabulary = stages(recipe)["vocabulary"].folder
    reader = Tokenizer.from_file(str(vocabulary / "languages" / "en" / "tokenizer.json"))
    likely = 0
    for cells, ids, logprobs in zip(words.cells, words.ids, words.logprobs, strict=True):
        places = cells[cells >= 0]
        assert places.tolist() == [*range(int(places[0]), int(places[0]) + len(places))]
        assert len(set(batch.words[places].tolist())) == 1
        assert ids[0][: len(places)].tolist() == batch.labels[places].tolist()
        for event in ids[1:][torch.isfinite(logprobs[1:])]:
            pieces = event[event >= 0].tolist()
            assert len(pieces) == len(places)
            word = reader.decode(pieces)
            assert reader.encode(word, add_special_tokens=False).ids == pieces
            likely += 1
        assert float(logprobs.exp().sum()) <= 1 + 1e-3
    assert likely > 10
    # A teacher is heard by pieces or by words, and together they weigh one.
    share = torch.ones(len(batch.labels))
    share -= words.piece_weights
    by_word = torch.zeros(len(batch.labels))
    by_word.index_add_(
        0, words.cells.clamp(min=0).flatten(), (words.weights[:, None] * (words.cells >= 0)).flatten()
    )  # fmt: skip
    torch.testing.assert_close(by_word, share, atol=1e-6, rtol=0)


def test_teachers_with_one_tokenizer_are_the_mixture_they_were(
    town: Path, recipe_of: Recipes
) -> None:
    taught = [
        {"teacher": str(town / "wp"), "languages": ["qav"], "weight": 3},
        {"teacher": str(town / "wp-other"), "languages": ["qav"], "weight": 1},
        {"teacher": str(town / "foreign"), "languages": ["qag"]},
    ]
    distil = {**WHOLE, "block_length": 32}
    worded = _signals(recipe_of(teachers=taught, combine={"qav": WORDS}, distil=distil), "qav")
    mixed = _signals(
        recipe_of(teachers=taught, combine={"qav": "mixture"}, distil=distil, out="mixture"), "qav"
    )

    rows = [*range(30)]
    assert isinstance(worded, WordSignals)
    assert worded.word_targets(rows) is None
    both = worded.batch(rows), mixed.batch(rows)
    for name in ("input_ids", "labels", "topk_ids", "topk_logprobs", "tail"):
        np.testing.assert_array_equal(*(getattr(batch, name) for batch in both))
    assert worded.usage() == mixed.usage()


def test_a_teacher_whose_pieces_the_student_lacks_is_heard_at_whole_words(
    town: Path, recipe_of: Recipes
) -> None:
    recipe = recipe_of(
        combine=WORDS,
        vocabulary={"normalizer": "keep", "max_size": 330},
        distil={**WHOLE, "block_length": 32, "max_lost": 1.0},
    )
    signals = _signals(recipe, "qav")
    assert isinstance(signals, WordSignals)

    rows = [*range(200)]
    batch, words = signals.batch(rows), signals.word_targets(rows)

    assert (batch.labels >= 0).all()  # each piece that the student lacks is spelled out
    assert words is not None
    assert len(words.cells) > 10
    usage = signals.usage()["wp"]
    assert usage.words_heard >= 0.95 * usage.words
    ensembles, vocabulary = ensembles_or_refuse(recipe), stages(recipe)["vocabulary"].folder
    student = new_student(recipe, ensembles, vocabulary)
    inputs = batch_inputs(signals, rows, recipe.distil)
    output = DistillationLoss(student, recipe.distil).eval()(**inputs)
    output.loss.backward()
    assert output.soft > 0
    assert torch.isfinite(student.get_input_embeddings().weight.grad).all()


class StopError(Exception):
    pass


def test_a_run_with_words_cut_off_in_training_ends_in_the_same_student(
    prose_recipe: Recipes, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("training") and done == 3:
            raise StopError

    with caplog.at_level("INFO", logger="mergedistill"):
        whole = run(prose_recipe(out="whole"))
    with pytest.raises(StopError):
        run(prose_recipe(out="cut"), watch=stop)

    resumed = run(prose_recipe(out="cut"))

    for name in ("model.safetensors", "tokenizer.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    told = json.loads((whole / "run.json").read_text())["meetings"]["en"]
    assert told["wordpiece"]["words_heard"] >= 0.95 * told["wordpiece"]["words"]
    assert re.search(r"wordpiece is heard at \d+ of \d+ masked positions and \d+", caplog.text)
    card = (whole / "README.md").read_text()
    assert re.search(r"wordpiece [\d.]+% \([\d.]+% of the words\)", card)
    assert "the likelihood it gives to the word is compared" in card


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distil": {"block_length": 64}}, "set distil.policy: whole_word"),
        ({"distil": {**WHOLE, "online": True}}, "leave distil.online out"),
        ({"distil": {**WHOLE, "sampler": "random"}}, "set distil.sampler: topk"),
        ({"combine": {"likelihood": "chunks"}}, "{likelihood: words}, got"),
        ({"combine": {"en": {"likelihood": "chunks"}}}, "{likelihood: words}, got"),
    ],
)
def test_what_words_cannot_be_is_refused(
    prose_recipe: Recipes, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        prose_recipe(**changes)


def test_what_words_are_compared_with_are_recipes(prose_recipe: Recipes) -> None:
    recipe = prose_recipe()

    compared = {variant.name: altered(recipe, variant.changes) for variant in baselines(recipe)}

    assert {"only wordpiece", "mlm only"} <= compared.keys()
    assert "online teachers" not in compared  # which are not heard by words
    assert all(variant.combination("en") == "words" for variant in compared.values())


def test_recordings_without_words_say_what_to_record(families: Path, prose_recipe: Recipes) -> None:
    recipe = prose_recipe(signals="old")
    run(recipe, until="vocabulary")
    masking = Masking(policy="whole_word", mask_share=1.0, random_share=0.0)
    for teaching in recipe.teachers:
        record(
            teaching.teacher,
            [Corpus("en", families / "en.txt")],
            recording_folder(recipe, teaching, "en"),
            temperatures=(2.0,),
            masking=masking,
            block_length=64,
        )

    with pytest.raises(StageError, match="without the likelihoods of words; delete it"):
        open_signals(recipe, ensembles_or_refuse(recipe), stages(recipe)["vocabulary"].folder)
