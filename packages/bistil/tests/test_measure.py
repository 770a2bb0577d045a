import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers.base.modules import Dense
from transformers import BertConfig, BertForMaskedLM, BertModel
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.export import energy
from bistil.export.energy import counters, joules_between
from bistil.export.measure import measure
from xeval.cost.measure import OpenedModel, open_model
from xeval.cost.parameters import split_parameters


@pytest.mark.parametrize(
    ("kind", "expected"), [(BertModel, 66_554_112), (BertForMaskedLM, 66_585_648)]
)
def test_a_student_of_bert_base_proportions_has_the_parameters_of_the_formula(
    make_masked_lm: Callable[..., Any], kind: Any, expected: int
) -> None:
    """V·H + positions + types + norm + L layers + pooler (Ansell et al. count so), or the masked-LM head in its place."""
    with torch.device("meta"):
        student = kind(BertConfig(vocab_size=30_000, num_hidden_layers=6))

    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    embeddings = 30_000 * 768 + 512 * 768 + 2 * 768 + 2 * 768
    above = 768 * 768 + 768 if kind is BertModel else 768 * 768 + 3 * 768 + 30_000
    assert split_parameters(student).total == embeddings + 6 * layer + above == expected


def test_cost_is_measured_at_one_thread_and_at_several(teacher: Path) -> None:
    found = measure(teacher, threads=2, length=16, repeats=3)

    assert found.one.threads == 1
    assert found.many.threads == 2
    assert found.one.parameters == found.many.parameters
    assert found.one.flops > 0


def test_energy_is_read_from_every_package_and_over_a_counters_end(tmp_path: Path) -> None:
    for name, count in (("intel-rapl:0", 990), ("intel-rapl:1", 100), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{count}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")

    before = counters(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("10\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("160\n")

    assert len(before) == 2
    assert joules_between(before, counters(tmp_path)) == pytest.approx(80e-6)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert counters(tmp_path) == {}


def test_energy_is_measured_where_the_machine_tells_and_nowhere_else(
    teacher: Path, sentence_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_COUNTERS", tmp_path)
    assert energy.joules_per_example(teacher, length=16) is None

    # Two packages that count 6 and 2 joules for each pass that runs on them, on an encoder that does run.
    packages = [tmp_path / f"intel-rapl:{number}" for number in range(2)]
    for package in packages:
        package.mkdir()
        (package / "energy_uj").write_text("0\n")

    def spend(*_: object) -> None:
        for package, joules in zip(packages, (6, 2), strict=True):
            counter = package / "energy_uj"
            counter.write_text(f"{int(counter.read_text()) + joules * 1_000_000}\n")

    def spending(folder: Path) -> OpenedModel:
        opened = open_model(folder)
        parts = [part for part in opened.model.modules() if isinstance(part, (BertModel, Dense))]
        for part in parts:
            part.register_forward_hook(spend)
        return opened

    monkeypatch.setattr(energy, "open_model", spending)
    monkeypatch.setattr(energy, "_SECONDS", 0.05)
    threads = torch.get_num_threads()

    # The pass that warms up is not counted, and each counts for all its examples.
    assert energy.joules_per_example(teacher, batch=2, length=16) == pytest.approx((6 + 2) / 2)
    # An encoder and its Dense, as they are timed.
    assert energy.joules_per_example(sentence_teacher, length=16) == pytest.approx(2 * (6 + 2))
    assert torch.get_num_threads() == threads


def test_the_command_prints_one_row_for_each_model(teacher: Path) -> None:
    done = CliRunner().invoke(
        app, ["measure", str(teacher), "--length", "16", "--repeats", "2", "--json"]
    )
    refused = CliRunner().invoke(app, ["measure", str(teacher), "--length", "1000"])

    assert done.exit_code == 0, done.output
    (its,) = json.loads(done.stdout).values()
    assert "joules" in its
    assert its["one"]["length"] == 16
    assert refused.exit_code == 2
    assert "beyond the model's limit" in refused.output
