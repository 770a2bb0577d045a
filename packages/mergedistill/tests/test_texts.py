"""Text that is read again and again lies on disk, and is what it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergedistill.recipe.corpora import TextOnDisk
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.run import run
from mergedistill.training.held_out import held_out_texts
from teacherzoo import Corpus, CorpusError


@settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text(st.characters(exclude_categories=[]), max_size=8), max_size=6))
def test_documents_come_back_from_the_disk_as_they_went(
    tmp_path: Path, documents: list[str]
) -> None:
    kept = TextOnDisk(iter(documents), tmp_path / "text")

    assert list(kept) == documents
    assert kept[1:-1] == documents[1:-1]
    assert [kept[-number] for number in range(1, len(documents) + 1)] == documents[::-1]


def test_held_out_text_that_cannot_be_read_is_said_and_no_text_held_out_is_none(
    recipe_of: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "qav.jsonl").write_text("{broken\n", encoding="utf-8")
    languages = {"qav": str(tmp_path / "qav.jsonl"), "qag": recipe_of().languages["qag"].corpus}

    texts = held_out_texts(recipe_of(languages=languages), 3)

    assert {language: len(documents) for language, documents in texts.items()} == {"qag": 3}
    assert f"nothing is measured on it: {tmp_path / 'qav.jsonl'}, line 1" in caplog.text
    caplog.clear()
    assert held_out_texts(recipe_of(held_out_share=0.0), 3) == {}
    assert caplog.text == ""


def test_teachers_are_not_ranked_on_other_text_where_the_held_out_cannot_be_read(
    recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = Corpus.documents

    def unreachable(corpus: Corpus, **options: Any) -> Any:
        if corpus.part == "held_out":
            raise CorpusError("the network is down")
        return documents(corpus, **options)

    monkeypatch.setattr(Corpus, "documents", unreachable)

    with pytest.raises(CorpusError, match="the network is down"):
        run(recipe_of(), until="rank")
