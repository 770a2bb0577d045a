"""Sparse fine-tunings on disk, on models, and added to one another."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from bistil.encoders.body import body_digests, body_parameters, copies, embedding_name
from bistil.errors import SparseError
from bistil.sparse.apply import applied, apply, check_base, combine, difference, reindex
from bistil.sparse.difference import SparseFineTuning, SparseTensor
from bistil.sparse.files import read_sparse, write_sparse
from bistil.sparse.gap_coding import decode_gaps, encode_gaps


def tiny(seed=0, vocabulary=40):
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForMaskedLM(BertConfig(vocab_size=vocabulary, hidden_size=16, **shape))


def drawn(model, seed=0, density=0.1, name="drawn", scale=1.0):
    """A sparse fine-tuning of a model with random places and values."""
    random = np.random.default_rng(seed)
    body = {}
    for tensor, parameter in body_parameters(model).items():
        chosen = np.flatnonzero(random.random(parameter.numel()) < density)
        values = torch.from_numpy(random.normal(size=len(chosen), scale=scale)).float()
        body[tensor] = SparseTensor(shape=tuple(parameter.shape), indices=chosen, values=values)
    return SparseFineTuning(body=body, base=body_digests(model), name=name)


@settings(max_examples=60)
@given(st.sets(st.integers(0, 2**40), max_size=50))
def test_gaps_decode_to_the_indices_they_were_made_of(numbers):
    indices = np.array(sorted(numbers), dtype=np.int64)
    coded = encode_gaps(indices)
    assert decode_gaps(coded, size=2**40 + 1, where="x").tolist() == indices.tolist()
    assert all(np.diff(np.flatnonzero(coded < 128), prepend=-1) <= 6)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 10_000), max_size=40), st.integers(0, 40))
def test_gaps_in_two_parts_equal_gaps_in_one(numbers, cut):
    indices = np.array(sorted(numbers), dtype=np.int64)
    first, second = indices[:cut], indices[cut:]
    previous = int(first[-1]) if len(first) else -1
    parts = [encode_gaps(first), encode_gaps(second, previous=previous)]
    assert np.concatenate(parts).tolist() == encode_gaps(indices).tolist()


def test_indices_beyond_the_tensor_are_refused():
    with pytest.raises(SparseError, match="below 5, got 7"):
        decode_gaps(encode_gaps(np.array([1, 7])), size=5, where="w")


@pytest.mark.parametrize("values", [torch.float32, torch.bfloat16])
def test_a_file_gives_back_what_was_written(tmp_path, values):
    tuning = replace(drawn(tiny()), head={"out.weight": torch.randn(3, 4)}, about={"task": "pos"})
    write_sparse(tuning, tmp_path / "a.safetensors", values=values)
    read = read_sparse(tmp_path / "a.safetensors")
    assert read.about == {"task": "pos"}
    assert read.base_digest == tuning.base_digest
    assert torch.equal(read.head["out.weight"], tuning.head["out.weight"])
    for name, delta in tuning.body.items():
        assert read.body[name].indices.tolist() == delta.indices.tolist()
        assert torch.equal(read.body[name].values, delta.values.to(values))


def test_a_file_is_known_by_its_content_whatever_its_name_ends_in(tmp_path):
    tuning = drawn(tiny())
    write_sparse(tuning, tmp_path / "sw.bin")
    assert read_sparse(tmp_path / "sw.bin").base_digest == tuning.base_digest


def test_equal_tunings_are_equal_bytes(tmp_path):
    for name in "ab":
        write_sparse(drawn(tiny()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_takes_at_most_five_bytes_for_each_entry(tmp_path):
    shape = (1000, 300)
    indices = np.flatnonzero(np.random.default_rng(0).random(300_000) < 0.043)
    delta = SparseTensor(shape=shape, indices=indices, values=torch.randn(len(indices)))
    write_sparse(SparseFineTuning(body={"w": delta}), tmp_path / "w")
    assert (tmp_path / "w").stat().st_size <= 5 * len(indices)


@pytest.mark.parametrize("place", [-1, -4000, 20])
def test_a_changed_byte_is_refused_by_file(tmp_path, place):
    path = tmp_path / "a.safetensors"
    write_sparse(drawn(tiny()), path)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(bytes(content))
    with pytest.raises(SparseError, match=r"a\.safetensors"):
        read_sparse(path)


def test_a_cut_file_a_missing_one_and_a_strange_one_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a"
    write_sparse(drawn(tiny()), path)
    path.write_bytes(path.read_bytes()[:-10])
    save_file({"x": torch.zeros(2)}, tmp_path / "b")
    for name in ("a", "b", "c"):
        with pytest.raises(SparseError, match=str(tmp_path / name)):
            read_sparse(tmp_path / name)


def test_what_was_worn_is_taken_off_bit_for_bit():
    model = tiny()
    with torch.no_grad():
        body_parameters(model)["embeddings.word_embeddings.weight"][3, 0] = -0.0
    before = {name: its.clone() for name, its in model.state_dict().items()}
    one, other = drawn(model, 1, scale=1e-3), drawn(model, 2, scale=1e3)
    with applied(model, one, other):
        inside = body_parameters(model)["encoder.layer.0.output.dense.weight"].clone()
    expected = before["bert.encoder.layer.0.output.dense.weight"]
    for tuning in (one, other):
        expected = expected + tuning.body["encoder.layer.0.output.dense.weight"].dense()
    assert torch.equal(inside, expected)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.int32), before[name].view(torch.int32)), name


def test_what_was_worn_is_taken_off_after_an_error():
    model = tiny()
    before = body_digests(model)
    with pytest.raises(KeyError), applied(model, drawn(model)):
        raise KeyError
    assert body_digests(model) == before


def test_a_tuning_of_another_base_is_refused_before_anything_is_changed():
    model, stranger = tiny(0), tiny(1)
    before = body_digests(model)
    with pytest.raises(SparseError, match=r"mine: it was made for another base model.*digest"):
        apply(model, drawn(model), drawn(stranger, name="mine"))
    assert body_digests(model) == before
    with pytest.raises(SparseError, match="another base model"), applied(stranger, drawn(model)):
        pass


def test_a_tuning_of_another_shape_is_refused_even_unchecked():
    with pytest.raises(SparseError, match=r"shape \(40, 16\).*one of shape \(30, 16\)"):
        apply(tiny(vocabulary=30), replace(drawn(tiny()), base={}), check=False)


def test_headless_models_and_models_with_heads_have_the_same_body():
    model = tiny()
    assert body_digests(model) == body_digests(model.bert)
    task = nn.Module()
    task.encoder, task.head = model.bert, nn.Linear(2, 2)
    assert body_digests(task) == body_digests(model)
    pooled = BertModel(model.config)
    assert body_parameters(pooled).keys() == body_parameters(model).keys()


def test_adding_then_subtracting_leaves_nothing():
    model = tiny()
    one, other = drawn(model, 1), drawn(model, 2)
    rest = combine((one, 1.0), (other, 2.0), (one, -1.0), (other, -2.0))
    assert all(not delta.dense().abs().max() > 1e-6 for delta in rest.body.values())


def test_combined_tunings_do_what_one_after_the_other_does():
    model, again = tiny(), tiny()
    one, other = drawn(model, 1), drawn(model, 2)
    apply(model, combine((one, 1.0), (other, 1.0)))
    apply(again, one, other)
    for name, parameter in body_parameters(model).items():
        torch.testing.assert_close(parameter, body_parameters(again)[name])


def test_combining_tunings_of_two_bases_is_refused():
    with pytest.raises(SparseError, match="another base model"):
        combine((drawn(tiny(0)), 1.0), (drawn(tiny(1)), 1.0))


def test_differences_put_on_the_old_weights_give_the_new():
    model, other = tiny(0), tiny(1)
    before, after = copies(body_parameters(model)), copies(body_parameters(other))
    places = {name: np.arange(its.numel()) for name, its in before.items()}
    apply(model, SparseFineTuning(body=difference(before, after, places)))
    for name, parameter in body_parameters(model).items():
        torch.testing.assert_close(parameter, after[name])


def test_reindexed_then_put_on_the_trimmed_model_equals_put_on_then_trimmed():
    from vocabmerge import select_rows

    kept = [0, 1, 2, 5, 6, 17, 30, 39]
    full, trimmed = tiny(), tiny()
    tuning = drawn(full, density=0.3)
    apply(full, tuning)
    select_rows(full, kept, pad_to=4)
    select_rows(trimmed, kept, pad_to=4)
    embedding = embedding_name(trimmed)
    apply(trimmed, reindex(tuning, np.array(kept), embedding=embedding, rows=8))
    for name, parameter in body_parameters(full).items():
        assert torch.equal(parameter, body_parameters(trimmed)[name]), name


def test_reindexing_still_refuses_another_base():
    from vocabmerge import select_rows

    kept = [0, 1, 2, 3, 5]
    stranger = tiny(1)
    select_rows(stranger, kept)
    tuning = reindex(drawn(tiny(0)), np.array(kept), embedding=embedding_name(stranger))
    with pytest.raises(SparseError, match="another base model"):
        check_base(stranger, tuning)


def test_ids_beyond_the_vocabulary_are_refused():
    model = tiny()
    with pytest.raises(SparseError, match="40 pieces"):
        reindex(drawn(model), np.array([0, 40]), embedding=embedding_name(model))


def whole_and_listed(model, seed=0):
    """A difference in every entry of every tensor: with all places, and without any."""
    listed = drawn(model, seed, density=2.0)
    body = {name: replace(delta, indices=None) for name, delta in listed.body.items()}
    return replace(listed, body=body), listed


def test_a_difference_in_every_entry_is_written_without_places(tmp_path):
    whole, listed = whole_and_listed(tiny())
    for name, tuning in (("whole", whole), ("listed", listed)):
        write_sparse(tuning, tmp_path / name, values=torch.float32)
    values = sum(4 * delta.size for delta in whole.body.values())

    assert (tmp_path / "whole").read_bytes() == (tmp_path / "listed").read_bytes()
    assert (tmp_path / "whole").stat().st_size < values + 300 * len(whole.body)  # for the header
    read = read_sparse(tmp_path / "whole")
    assert read.count == whole.count
    for name, delta in listed.body.items():
        assert read.body[name].indices is None
        assert torch.equal(read.body[name].dense(), delta.dense())


def test_values_without_places_must_be_as_many_as_entries(tmp_path):
    delta = SparseTensor(shape=(2, 3), indices=None, values=torch.ones(5))
    write_sparse(SparseFineTuning(body={"w": delta}), tmp_path / "w")
    with pytest.raises(SparseError, match="6 places but 5 values"):
        read_sparse(tmp_path / "w")


def test_a_difference_in_every_entry_does_what_one_with_all_places_does():
    from vocabmerge import select_rows

    whole, listed = whole_and_listed(tiny())
    some, kept = drawn(tiny(), 3), np.array([0, 3, 4, 39])
    trimmed = tiny()
    select_rows(trimmed, kept.tolist(), pad_to=8)
    embedding = embedding_name(trimmed)
    made = {}
    for way, tuning in (("whole", whole), ("listed", listed)):
        model = tiny()
        before = body_digests(model)
        with applied(model, tuning, some):
            inside = copies(body_parameters(model))
        assert body_digests(model) == before
        apply(model, combine((tuning, 2.0), (some, -1.0)))
        lean = copies(body_parameters(trimmed))
        apply(trimmed, reindex(tuning, kept, embedding=embedding, rows=8))
        made[way] = (inside, copies(body_parameters(model)), copies(body_parameters(trimmed)))
        for name, tensor in lean.items():
            body_parameters(trimmed)[name].data.copy_(tensor)
    for one, other in zip(made["whole"], made["listed"], strict=True):
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def test_differences_at_all_places_need_no_list_of_them():
    before, after = (copies(body_parameters(tiny(seed))) for seed in (0, 1))
    listed = difference(before, after, {name: np.arange(its.numel()) for name, its in before.items()})  # fmt: skip

    whole = difference(before, after, dict.fromkeys(before))

    assert all(delta.indices is None for delta in whole.values())
    assert all(torch.equal(whole[name].values, delta.values) for name, delta in listed.items())


def test_what_is_worn_again_on_an_accelerator_is_moved_there_once():
    model = tiny().to("meta")
    tuning = drawn(tiny())
    for _ in range(2):
        with applied(model, tuning, check=False):
            moved = {name: delta.on(torch.device("meta")) for name, delta in tuning.body.items()}
    with applied(model, tuning, check=False):
        pass

    for name, delta in tuning.body.items():
        again = delta.on(torch.device("meta"))
        assert all(one is other for one, other in zip(moved[name], again, strict=True))
        assert {tensor.device.type for tensor in again} == {"meta"}


def test_coding_needs_memory_for_a_part_at_a_time():
    indices = np.arange(2_000_000) * 3
    tracemalloc.start()
    try:
        coded = encode_gaps(indices)
        _, encoding = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert np.array_equal(decode_gaps(coded, size=6_000_000, where="w"), indices)
        _, decoding = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Beside what is given and made, less than one number of eight bytes for each index, of which there were six.
    assert encoding < indices.nbytes
    assert decoding < 2.5 * indices.nbytes


@pytest.mark.parametrize("coded", [[255] * 9 + [0], [255, 255], [128, 128, 4]])
def test_bytes_that_are_no_indices_of_a_small_tensor_are_refused(coded):
    with pytest.raises(SparseError, match=r"^w: "):
        decode_gaps(np.array(coded, dtype=np.uint8), size=1000, where="w")


def test_the_header_says_what_the_file_is(tmp_path):
    from safetensors import safe_open

    write_sparse(drawn(tiny()), tmp_path / "a")
    with safe_open(tmp_path / "a", framework="pt") as file:
        header = json.loads(file.metadata()["sparse_fine_tuning"])
    assert header["format"] == "sparse-fine-tuning/1"
    assert header["count"] == drawn(tiny()).count
