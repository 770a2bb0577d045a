import json
from pathlib import Path

import pytest

from xeval.protocol import Protocol
from xeval.results import read_results
from xeval.scoring import score
from xeval.source import LocalFolder
from xeval.tuning import tune

SHORT = Protocol(learning_rate=3e-3, batch_size=8, steps=60, evaluate_every=20, max_length=32)


@pytest.mark.parametrize("kind", ["bert", "modern"])
def test_a_tiny_model_learns_to_tag_and_is_scored_on_every_language(
    kind: str, models, data: Path, tmp_path: Path
) -> None:
    notes = tune(
        models(kind), tmp_path / "tuned", task="pos", source=LocalFolder(data), language="xx",
        protocol=SHORT, seed=3,
    )  # fmt: skip

    results = score(
        tmp_path / "tuned", tmp_path / "r.jsonl", source=LocalFolder(data), bootstraps=2
    )

    assert {(r.dataset, r.value is None) for r in results} == {
        ("ud/xx_made", False),
        ("ud/yy_made", False),
        ("ud/zz_made", True),
    }
    assert results[0].value is not None
    assert results[0].value > 80
    assert notes["dev"]["accuracy"] > 80
    assert len(read_results(tmp_path / "r.jsonl")) == 2 * 3 + 1
    assert json.loads((tmp_path / "tuned" / "xeval.json").read_text())["base"] == kind
