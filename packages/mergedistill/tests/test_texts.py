"""Text that is read again and again lies on disk, and is what it was."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergedistill.recipe.corpora import TextOnDisk


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
