"""Rows of a new vocabulary from old models: each method where its answer is known exactly."""

import itertools

import numpy as np
import pytest
import torch

from vocabmerge.carry import cooccurrence as carry_cooccurrence
from vocabmerge.carry import mixture as carry_mixture
from vocabmerge.carry.carry import carry
from vocabmerge.carry.cooccurrence import cooccurrence_embeddings
from vocabmerge.carry.mixture import matching_pursuit, mean_mixture, similarity_mixture
from vocabmerge.carry.pieces import matching_ids, segment_in_old_pieces
from vocabmerge.carry.procrustes import procrustes
from vocabmerge.carry.source import COMPUTED, COPIED, RANDOM, Source
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import parse_vocabulary

WORDS = [f"w{chr(97 + a)}{chr(97 + b)}" for a in range(12) for b in range(10)]


def wordpiece(pieces, name="wordpiece"):
    vocab = {
        piece: number
        for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])
    }
    special = [
        {
            "id": i,
            "content": t,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for t, i in list(vocab.items())[:5]
    ]
    return parse_vocabulary({"added_tokens": special, "pre_tokenizer": {"type": "BertPreTokenizer"}, "normalizer": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}}, name=name)  # fmt: skip


def unigram(pieces, name="unigram"):
    vocab = [[piece, 0.0] for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] + [
        [piece, -2.0 - 0.01 * len(piece)] for piece in pieces
    ]
    special = [
        {
            "id": i,
            "content": t,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, (t, _) in enumerate(vocab[:5])
    ]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return parse_vocabulary({"added_tokens": special, "pre_tokenizer": metaspace, "normalizer": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False}}, name=name)  # fmt: skip


def source(vocabulary, width=12, seed=0, head=False):
    generator = torch.Generator().manual_seed(seed)
    size = len(vocabulary)
    return Source(
        vocabulary=vocabulary,
        embedding=torch.randn(size, width, generator=generator),
        head=torch.randn(size, width, generator=generator) if head else None,
        bias=torch.randn(size, generator=generator) if head else None,
    )


OLD = wordpiece(WORDS[:100], "old")
NEW = wordpiece([*reversed(WORDS[40:]), "zzz"], "new")


def test_copy_to_the_same_vocabulary_is_the_identity():
    old = source(OLD, head=True)
    made = carry(OLD, [old], method="copy")
    assert torch.equal(made.embedding, old.embedding)
    assert torch.equal(made.head, old.head)
    assert torch.equal(made.bias, old.bias)
    assert made.report["copied"] == len(OLD)
    assert made.report["random"] == made.report["computed"] == 0


@pytest.mark.parametrize("method", ["copy", "mean", "subword", "procrustes"])
def test_every_shared_piece_keeps_its_row_bit_for_bit(method):
    old = source(OLD, head=True)
    made = carry(NEW, [old], method=method)
    for number, piece in enumerate(NEW.pieces):
        if piece in OLD.ids:
            assert torch.equal(made.embedding[number], old.embedding[OLD.ids[piece]])
            assert made.bias[number] == old.bias[OLD.ids[piece]]
            assert made.origin[number] == COPIED
    assert made.report["anchors"] == {"old": 65}


def test_random_rows_are_seeded_and_have_the_old_rows_mean_and_deviation():
    old = Source(
        vocabulary=OLD, embedding=source(OLD, width=4).embedding * torch.tensor([1.0, 5, 0, 2]) + 7
    )
    new = wordpiece([f"x{number}" for number in range(4000)])
    made = carry(new, [old], method="copy")
    again = carry(new, [old], method="copy", seed=0)
    other = carry(new, [old], method="copy", seed=1)

    assert torch.equal(made.embedding, again.embedding)
    assert not torch.equal(made.embedding, other.embedding)
    fresh = made.embedding[made.origin == RANDOM]
    assert made.report["random"] == len(fresh) == 4000
    torch.testing.assert_close(fresh.mean(dim=0), old.embedding.mean(dim=0), atol=0.3, rtol=0)
    torch.testing.assert_close(
        fresh.std(dim=0), old.embedding.std(dim=0, correction=0), atol=0.3, rtol=0.1
    )


def test_mean_is_numpys_mean_over_the_sources_and_over_the_first():
    one, two = (
        source(OLD, seed=1, head=True),
        source(wordpiece(WORDS[60:110], "two"), seed=2, head=True),
    )
    made = carry(NEW, [one, two], method="mean")
    for number, piece in enumerate(NEW.pieces):
        rows = [
            s.embedding[s.vocabulary.ids[piece]].numpy()
            for s in (one, two)
            if piece in s.vocabulary.ids
        ]
        wanted = np.mean(rows, axis=0) if rows else one.embedding.numpy().mean(axis=0)
        np.testing.assert_allclose(made.embedding[number], wanted, atol=1e-6)
        assert made.origin[number] == (COPIED if len(rows) == 1 else COMPUTED)
    assert made.report["random"] == 0


def test_subword_is_the_mean_of_the_spelling_in_the_old_vocabulary():
    old_vocabulary = wordpiece(["ab", "a", "##c", "##cd", "##d", "b"])
    old = source(old_vocabulary, head=True)
    new = wordpiece(["abcd", "##dc", "abx", "c"])
    made = carry(new, [old], method="subword")

    rows = {piece: made.embedding[new.ids[piece]] for piece in ("abcd", "##dc")}
    ids = old_vocabulary.ids
    torch.testing.assert_close(rows["abcd"], old.embedding[[ids["ab"], ids["##cd"]]].mean(dim=0))
    torch.testing.assert_close(rows["##dc"], old.embedding[[ids["##d"], ids["##c"]]].mean(dim=0))
    torch.testing.assert_close(
        made.bias[new.ids["abcd"]], old.bias[[ids["ab"], ids["##cd"]]].mean()
    )
    assert [made.origin[new.ids[piece]] for piece in ("abx", "c")] == [RANDOM, RANDOM]


def test_pieces_match_between_families_by_place_and_bytes_and_specials_by_role():
    old = unigram(["▁cat", "cat", "s", "▁s", ".", "▁dog"])
    new = wordpiece(["cat", "##cat", "##s", ".", "bird"])
    found = {new.pieces[number]: old_id for number, old_id in enumerate(matching_ids(new, old))}

    assert found == {
        "[PAD]": old.ids["<pad>"], "[UNK]": old.ids["<unk>"], "[CLS]": old.ids["<s>"],
        "[SEP]": old.ids["</s>"], "[MASK]": old.ids["<mask>"],
        "cat": old.ids["▁cat"], "##cat": old.ids["cat"], "##s": old.ids["s"], ".": old.ids["."], "bird": -1,
    }  # fmt: skip


def test_spellings_cross_families_in_the_right_place_of_a_word():
    old = unigram(["▁do", "▁", "do", "g", "s", "▁c"])
    new = wordpiece(["dogs", "##dogs", "cx"])
    spelled = segment_in_old_pieces(
        new, old, [new.ids[piece] for piece in ("dogs", "##dogs", "cx")]
    )
    assert [[old.pieces[i] for i in ids] for ids in spelled] == [
        ["▁do", "g", "s"],
        ["do", "g", "s"],
        [],
    ]

    back = segment_in_old_pieces(
        unigram(["▁dogdo", "gdo", "ж"]), wordpiece(["dog", "##do", "##g"]), [5, 6, 7]
    )
    assert [len(ids) for ids in back] == [2, 2, 0]


def test_pursuit_recovers_sparse_combinations():
    generator = torch.Generator().manual_seed(3)
    atoms = torch.randn(200, 64, generator=generator)
    places = torch.stack([torch.randperm(200, generator=generator)[:4] for _ in range(50)])
    weights = torch.rand(50, 4, generator=generator) + 0.5
    targets = torch.einsum("nk,nkd->nd", weights, atoms[places])

    found = matching_pursuit(targets, atoms, torch.arange(200), k=8)

    torch.testing.assert_close(found.apply(atoms), targets, atol=1e-4, rtol=1e-4)
    for row in range(50):
        used = found.ids[row][found.weights[row].abs() > 1e-3]
        assert set(used.tolist()) == set(places[row].tolist())


def test_pursuit_with_as_many_atoms_as_columns_is_exact_and_its_error_never_grows_with_k():
    generator = torch.Generator().manual_seed(4)
    atoms, targets = (
        torch.randn(40, 16, generator=generator),
        torch.randn(9, 16, generator=generator),
    )
    errors = [
        (matching_pursuit(targets, atoms, torch.arange(40), k=k).apply(atoms) - targets).norm()
        for k in (1, 3, 8, 16, 64)
    ]
    assert all(later <= earlier + 1e-5 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-4


def test_pursuit_agrees_with_scikit_learn():
    from sklearn import linear_model

    generator = np.random.default_rng(5)
    atoms, targets = generator.normal(size=(60, 24)), generator.normal(size=(7, 24))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    wanted = linear_model.orthogonal_mp(atoms.T, targets.T, n_nonzero_coefs=6).T

    found = matching_pursuit(
        torch.tensor(targets).float(), torch.tensor(atoms).float(), torch.arange(60), k=6
    )

    ours = np.zeros_like(wanted)
    np.put_along_axis(ours, found.ids.numpy(), found.weights.double().numpy(), axis=1)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_chunks_do_not_change_what_is_found(monkeypatch):
    generator = torch.Generator().manual_seed(6)
    atoms, targets = (
        torch.randn(30, 8, generator=generator),
        torch.randn(25, 8, generator=generator),
    )
    whole = (
        matching_pursuit(targets, atoms, torch.arange(30), k=4),
        similarity_mixture(targets, atoms, torch.arange(30)),
    )
    monkeypatch.setattr(carry_mixture, "BYTES_AT_ONCE", 4000)
    parts = (
        matching_pursuit(targets, atoms, torch.arange(30), k=4),
        similarity_mixture(targets, atoms, torch.arange(30)),
    )
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a.apply(atoms), b.apply(atoms))


def test_omp_carries_a_linearly_related_space_exactly():
    big, small = wordpiece(WORDS, "donor"), wordpiece(WORDS[:80], "base")
    donor = source(big, width=10)
    linear = torch.randn(10, 14, generator=torch.Generator().manual_seed(9))
    base = Source(
        vocabulary=small, embedding=(donor.embedding @ linear)[[big.ids[p] for p in small.pieces]]
    )

    made = carry(big, [base, donor], method="omp", k=10)

    torch.testing.assert_close(made.embedding, donor.embedding @ linear, atol=1e-3, rtol=1e-3)
    assert made.report["computed"] == 40
    assert made.report["random"] == 0


@pytest.mark.parametrize("width", [12, 20])
def test_procrustes_recovers_a_rotated_scaled_and_shifted_copy(width):
    base = source(OLD, head=True)
    rotation = torch.linalg.qr(
        torch.randn(width, width, generator=torch.Generator().manual_seed(7))
    )[0][:12]
    other_vocabulary = wordpiece(list(reversed(WORDS)), "other")
    full = source(other_vocabulary, head=True)
    truth = {name: table.clone() for name, table in full.tables().items()}
    for number, piece in enumerate(other_vocabulary.pieces):
        if piece in OLD.ids:
            for name, table in base.tables().items():
                truth[name][number] = table[OLD.ids[piece]]
    turned = Source(
        vocabulary=other_vocabulary,
        embedding=3 * truth["embedding"] @ rotation + 5,
        head=0.5 * truth["head"] @ rotation - 1,
        bias=truth["bias"][:, 0] + 2,
    )

    made = carry(other_vocabulary, [base, turned], method="procrustes")

    torch.testing.assert_close(made.embedding, truth["embedding"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.head, truth["head"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.bias, truth["bias"][:, 0], atol=1e-5, rtol=1e-4)


def test_procrustes_agrees_with_scipy():
    from scipy import linalg

    generator = torch.Generator().manual_seed(8)
    a, b = torch.randn(50, 6, generator=generator), torch.randn(50, 6, generator=generator)
    wanted, _ = linalg.orthogonal_procrustes((a - a.mean(0)).numpy(), (b - b.mean(0)).numpy())
    np.testing.assert_allclose(procrustes(a, b).rotation, wanted, atol=1e-4)


def test_sparsemax_weights_are_the_projection_onto_the_simplex():
    generator = torch.Generator().manual_seed(10)
    queries, anchors = (
        torch.randn(20, 5, generator=generator),
        torch.randn(300, 5, generator=generator),
    )
    found = similarity_mixture(queries, anchors, torch.arange(300))

    cosine = torch.nn.functional.cosine_similarity(queries[:, None], anchors[None], dim=2).double()
    low, high = cosine.min(dim=1).values - 1, cosine.max(dim=1).values
    for _ in range(60):  # bisection for the threshold that leaves a total of 1
        middle = (low + high) / 2
        above = (cosine - middle[:, None]).clamp(min=0).sum(dim=1) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    wanted = (cosine - low[:, None]).clamp(min=0)
    ours = torch.zeros_like(wanted).scatter_add_(1, found.ids, found.weights.double())
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ours.sum(dim=1), torch.ones(20, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_focus_gives_a_twin_its_twins_row():
    old = source(OLD, head=True)
    auxiliary = np.random.default_rng(0).normal(size=(len(NEW), 6)).astype(np.float32)
    shared = [number for number, piece in enumerate(NEW.pieces) if piece in OLD.ids]
    lone = [number for number, piece in enumerate(NEW.pieces) if piece not in OLD.ids]
    auxiliary = np.concatenate([auxiliary, 20 * np.eye(len(NEW), dtype=np.float32)], axis=1)
    auxiliary[lone[0]] = (
        auxiliary[shared[7]] * 3
    )  # the same direction as a shared piece, far from all others
    auxiliary[lone[1]] = 0

    made = carry(NEW, [old], method="focus", auxiliary=auxiliary)

    twin = OLD.ids[NEW.pieces[shared[7]]]
    torch.testing.assert_close(made.embedding[lone[0]], old.embedding[twin], atol=0.1, rtol=0.1)
    assert made.origin[lone[0]] == COMPUTED
    assert made.origin[lone[1]] == RANDOM


def test_cooccurrence_embeddings_put_pieces_of_like_company_together():
    draw = np.random.default_rng(0)
    texts = []
    for _ in range(800):
        topic = draw.integers(2)
        texts.append((draw.integers(0, 20, size=8) + 20 * topic).tolist())
    made = cooccurrence_embeddings(texts, 45, width=8)

    unit = made[:40] / np.linalg.norm(made[:40], axis=1, keepdims=True)
    similar = unit @ unit.T
    inside = np.concatenate([similar[:20, :20].ravel(), similar[20:, 20:].ravel()])
    assert inside.min() > similar[:20, 20:].max()
    assert not made[40:].any()
    np.testing.assert_array_equal(made, cooccurrence_embeddings(texts, 45, width=8))


def test_cooccurrence_embeddings_span_the_exact_information_matrix():
    texts = [[0, 1, 2, 1], [2, 3], [1, 3, 0]]
    pairs = np.zeros((4, 4))
    for text in texts:
        for here in range(len(text)):
            for there in range(max(0, here - 2), min(len(text), here + 3)):
                if here != there:
                    pairs[text[here], text[there]] += 1
    total, row, column = pairs.sum(), pairs.sum(1, keepdims=True), pairs.sum(0, keepdims=True)
    with np.errstate(divide="ignore"):
        information = np.maximum(np.log(pairs * total / (row * column)), 0)
    left, roots, _ = np.linalg.svd(information)
    wanted = left * np.sqrt(roots)

    made = cooccurrence_embeddings(texts, 4, width=4, window=2)

    np.testing.assert_allclose(made @ made.T, wanted @ wanted.T, atol=1e-5)


def test_half_precision_in_half_precision_out():
    old = Source(vocabulary=OLD, embedding=source(OLD).embedding.to(torch.bfloat16))
    for method in ("copy", "mean", "subword", "procrustes"):
        assert carry(NEW, [old], method=method).embedding.dtype == torch.bfloat16


def test_a_mean_mixture_names_its_rows():
    table = torch.arange(8.0).reshape(4, 2)
    assert mean_mixture([[3], [0, 1, 2]]).apply(table).tolist() == [[6.0, 7.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: carry(NEW, [source(OLD)], method="magic"), "expected a method among copy, mean.*got 'magic'"),
        (lambda: carry(NEW, []), "at least one model"),
        (lambda: carry(NEW, [source(OLD)], method="omp"), "omp expresses a piece in a second model"),
        (lambda: carry(NEW, [source(OLD)], method="focus"), "needs auxiliary embeddings"),
        (lambda: carry(NEW, [source(OLD)], method="focus", auxiliary=np.ones((3, 2))), r"of \d+ pieces, got shape \(3, 2\)"),
        (lambda: carry(NEW, [source(OLD), source(OLD, width=5)], method="mean"), "old is 5 wide and old 12"),
        (lambda: carry(NEW, [source(OLD, head=True), source(OLD)], method="mean"), "has no bias and no head"),
        (lambda: Source(vocabulary=OLD, embedding=torch.zeros(5, 2)), r"embedding has 5 rows for \d+ ids"),
        (lambda: carry(wordpiece(["q"]), [source(parse_only("a")), source(parse_only("q"))], method="omp"), "shared with"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, sentence):
    with pytest.raises(VocabularyError, match=sentence):
        make()


def parse_only(piece):
    """A vocabulary that shares no special token with any other."""
    return parse_vocabulary(
        {
            "added_tokens": [],
            "model": {"type": "WordPiece", "unk_token": "!", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 9, "vocab": {"!!": 0, piece: 1}},
        },
        name=piece,
    )  # fmt: skip


def test_cooccurrences_are_the_same_however_much_of_the_text_is_held(monkeypatch):
    random = np.random.Generator(np.random.Philox(0))
    texts = [random.integers(0, 30, length) for length in random.integers(0, 40, 60)]
    whole = cooccurrence_embeddings(texts, 30, width=8)

    monkeypatch.setattr(carry_cooccurrence, "_IDS_AT_ONCE", 50)
    monkeypatch.setattr(carry_cooccurrence, "_PLACES_HELD", 100)
    monkeypatch.setattr(carry_cooccurrence, "_PAIRS_AT_ONCE", 160)

    np.testing.assert_array_equal(cooccurrence_embeddings(texts, 30, width=8), whole)
    np.testing.assert_array_equal(cooccurrence_embeddings(iter(texts), 30, width=8), whole)
