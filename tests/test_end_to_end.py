"""The whole way, as thin as it gets: text, teachers, one recipe, a student, the judge's figures."""

from pathlib import Path

import yaml
from toyworld import write_world

import xeval
from mergedistill import read_recipe, run
from teacherzoo import Corpus
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher

LANGUAGES = ("qav", "qyr")  # two scripts


def test_text_becomes_teachers_become_a_student_that_is_scored(tmp_path: Path) -> None:
    data = write_world(
        tmp_path / "data",
        languages=LANGUAGES,
        words=8000,
        rows={"train": 60, "dev": 20, "test": 30},
        tasks=["ud"],
    )
    for language, family in zip(LANGUAGES, ("wordpiece", "bpe"), strict=True):
        pretrain_teacher(
            [Corpus(language, data / "corpora" / f"{language}.txt.xz", held_out_share=0.05)],
            tmp_path / f"teacher-{language}",
            config=PretrainingConfig(
                family=family,  # type: ignore[arg-type]  # one of the two
                vocabulary=400,
                layers=1,
                width=32,
                steps=20,
                batch=16,
                length=32,
            ),
        )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "out": "run",
                "languages": {code: f"data/corpora/{code}.txt.xz" for code in LANGUAGES},
                "teachers": [
                    {"teacher": f"teacher-{code}", "languages": [code]} for code in LANGUAGES
                ],
                "held_out_share": 0.05,
                "vocabulary": {"normalizer": "keep"},
                "student": {"layers": 1, "width": 32},
                "distil": {"block_length": 32},
                "train": {"steps": 20, "tokens": 512},
            }
        )
    )

    student = run(read_recipe(recipe))
    results = xeval.run(
        [student],
        tmp_path / "results.jsonl",
        tasks=["pos", "bpb"],
        source=xeval.LocalFolder(data),
        language="qav",
        protocol=xeval.Protocol(steps=60, evaluate_every=20, learning_rate=3e-3, lines=20),
    )

    scores = {
        (result.task, result.language): result.value
        for result in results
        if result.metric != "macro_f1"
    }
    assert {language for task, language in scores if task == "pos"} == set(LANGUAGES)
    assert scores["pos", "qav"] > scores["pos", "qyr"] >= 0  # tuned on the first
    assert all(0 < scores["bpb", language] < 12 for language in LANGUAGES)
    assert len(xeval.read_results(tmp_path / "results.jsonl")) >= len(scores)
