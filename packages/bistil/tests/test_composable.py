"""Files of composable-sft.

What that project writes was read in its `src/sft/sft.py` at commit 29f7872 and is written here anew, from this description:
`torch.save` of a dictionary with `diffs` and `abs` to `pytorch_diff.bin`. `abs` has parameters as they are. `diffs` has for
each name `size`, `index_steps` and `values`: the places of the entries that are not zero, counted with the first dimension
fastest, ascending, as steps from one to the next, of which the first alone is a number of numpy; and the values in that order.
"""

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from bistil.encoders.body import body_parameters, copies
from bistil.errors import SparseError
from bistil.sparse.apply import apply
from bistil.sparse.composable_sft import read_composable
from bistil.sparse.files import read_sparse

CONFIG = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
)


def encoded(difference):
    """One difference as the file has it."""
    cells = []
    for coordinate in difference.nonzero().tolist():
        place, stride = 0, 1
        for position, extent in zip(coordinate, difference.shape, strict=True):
            place, stride = place + position * stride, stride * extent
        cells.append((place, float(difference[tuple(coordinate)])))
    cells.sort()
    places = [place for place, _ in cells]
    steps = [np.int64(places[0])] if places else []
    steps += [later - sooner for sooner, later in itertools.pairwise(places)]
    return {
        "size": difference.shape,
        "index_steps": steps,
        "values": torch.tensor([value for _, value in cells]),
    }


def tuned(kind=BertForTokenClassification):
    """A model, and sparse differences of its encoder by full name, one of them without an entry."""
    torch.manual_seed(0)
    model = kind(CONFIG)
    differences = {
        name: torch.randn_like(its) * (torch.rand_like(its) < 0.1)
        for name, its in model.named_parameters()
        if name.startswith("bert.")
    }
    differences["bert.encoder.layer.0.output.dense.bias"].zero_()
    return model, differences


def test_every_difference_and_the_head_are_read_and_put_on_as_their_author_does(tmp_path):
    model, differences = tuned()
    # On the CPU what is saved as a head are the parameters themselves.
    head = {name: its for name, its in model.named_parameters() if name.startswith("classifier.")}
    diffs = {name: encoded(difference) for name, difference in differences.items()}
    torch.save({"diffs": diffs, "abs": head}, tmp_path / "pytorch_diff.bin")

    tuning = read_sparse(tmp_path)

    assert {f"bert.{name}" for name in tuning.body} == set(differences)
    for name, difference in differences.items():
        assert torch.equal(tuning.body[name.removeprefix("bert.")].dense(), difference), name
    assert tuning.head.keys() == {"classifier.weight", "classifier.bias"}
    for name, tensor in tuning.head.items():
        assert torch.equal(tensor, model.get_parameter(name))
        assert not tensor.requires_grad
    expected = {
        name: its + differences[f"bert.{name}"]
        for name, its in copies(body_parameters(model)).items()
    }
    apply(model, tuning)
    for name, tensor in body_parameters(model).items():
        assert torch.equal(tensor, expected[name]), name


def test_numbers_that_an_older_numpy_pickled_are_read(tmp_path):
    _, differences = tuned()
    name = "bert.encoder.layer.1.output.dense.weight"
    torch.save({"diffs": {name: encoded(differences[name])}, "abs": {}}, tmp_path / "new.bin")
    with (
        zipfile.ZipFile(tmp_path / "new.bin") as new,
        zipfile.ZipFile(tmp_path / "pytorch_diff.bin", "w") as old,
    ):
        for entry in new.infolist():
            content = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(entry, content)

    delta = read_sparse(tmp_path).body[name.removeprefix("bert.")]

    assert torch.equal(delta.dense(), differences[name])


@pytest.mark.parametrize(("parts", "whole"), [(("diffs", "abs"), True), (("body", "head"), False)])
def test_the_layouts_of_its_first_days_are_read(tmp_path, parts, whole):
    """For two days the file was called `body` and `head`; before places were coded, torch's own sparse tensors stood there."""
    _, differences = tuned(BertForMaskedLM)
    name = "bert.embeddings.word_embeddings.weight"
    stored = differences[name].to_sparse().coalesce()
    content = dict(zip(parts, ({name: stored}, {"classifier.weight": torch.ones(2, 16)}), strict=True))  # fmt: skip
    torch.save(content, tmp_path / "pytorch_diff.bin")

    tuning = read_sparse(tmp_path / "pytorch_diff.bin")

    assert torch.equal(tuning.body["embeddings.word_embeddings.weight"].dense(), differences[name])
    assert torch.equal(tuning.head["classifier.weight"], torch.ones(2, 16))


def test_a_difference_of_a_pooler_is_left_out_and_named(tmp_path):
    name = "bert.encoder.layer.0.output.dense.bias"
    diffs = {"bert.pooler.dense.weight": encoded(torch.eye(16)), name: encoded(torch.ones(16))}
    torch.save({"diffs": diffs, "abs": {}}, tmp_path / "pytorch_diff.bin")

    tuning = read_sparse(tmp_path)

    assert tuning.body.keys() == {name.removeprefix("bert.")}
    assert tuning.about["left_out"] == ["pooler.dense.weight"]


class Malice:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path(self.file).touch, ())


STEPS = {"size": (2, 3), "values": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([1, 2], "expected a composable-sft file with `diffs` and `abs`, got 'list'"),
        ({"state_dict": {}, "epoch": 3}, "got the entries 'epoch', 'state_dict'"),
        ({"diffs": [1]}, "expected tensors by name in its 'diffs', got 'list'"),
        ({"diffs": {"w": 3}}, "the tensor 'w' is stored in a way that is not known"),
        ({"diffs": {"w": {**STEPS, "index_steps": [1, 5]}}}, "places and values of 'w' do not fit"),
        ({"diffs": {"w": {**STEPS, "index_steps": [3, -2]}}}, "places and values of 'w' do not fit"),
        ({"diffs": {"w": {**STEPS, "index_steps": [3]}}}, "places and values of 'w' do not fit"),
        ({"diffs": {}, "abs": {"w": 3}}, "expected a tensor as 'w', got 'int'"),
        (
            {"abs": {"bert.encoder.layer.0.output.LayerNorm.weight": torch.ones(16)}},
            "'bert.encoder.layer.0.output.LayerNorm.weight' of the body as it is, not as a difference",
        ),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused_by_what_is_wrong(tmp_path, content, fault):
    torch.save(content, tmp_path / "pytorch_diff.bin")

    with pytest.raises(SparseError) as refused:
        read_composable(tmp_path)

    assert fault in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "pytorch_diff.bin"))


def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "touched"
    torch.save({"diffs": {"w": Malice(str(trap))}}, tmp_path / "pytorch_diff.bin")

    with pytest.raises(SparseError, match="more than tensors and numbers"):
        read_composable(tmp_path)

    assert not trap.exists()


def test_a_damaged_file_and_one_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "pytorch_diff.bin").write_bytes(b"not a file of torch")
    with pytest.raises(SparseError, match="pytorch_diff"):
        read_composable(tmp_path)
    with pytest.raises(SparseError, match="cannot be read"):
        read_composable(tmp_path / "none.bin")
