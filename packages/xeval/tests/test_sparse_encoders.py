"""Sparse encoders, judged by the answers of sentence-transformers' own class."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xeval.cost.measure import cost
from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.evaluate.score import score
from xeval.protocol import Protocol
from xeval.sentences.kinds import kind_of
from xeval.sentences.vectors import open_vectors, unit
from xeval.tasks.bitext import near


@pytest.fixture(scope="module")
def library(sparse_encoder: Path) -> Any:
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(sparse_encoder), device="cpu")


def _silent(_done: int, _total: int, _what: str) -> None:
    """No progress."""


def test_vectors_and_products_are_the_librarys_in_the_order_of_the_texts(
    sparse_encoder: Path, library: Any, text: list[str]
) -> None:
    opened = open_vectors(str(sparse_encoder), Protocol())
    asked, _ = opened.encode(text[:7], "query", _silent, "")
    known, cut = opened.encode(text[7:40], "document", _silent, "")

    queries, documents = library.encode_query(text[:7]), library.encode_document(text[7:40])
    np.testing.assert_allclose(asked.toarray(), queries.to_dense(), atol=1e-6)
    np.testing.assert_allclose(known.toarray(), documents.to_dense(), atol=1e-6)
    expected = queries.to_dense() @ documents.to_dense().T
    np.testing.assert_allclose(opened.similarity(asked, known), expected, rtol=1e-5)
    assert (
        opened.method == "sparse encoder (Transformer, SpladePooling), dot, prompts: query 'das '"
    )
    assert cut == 0
    assert 0 < known.nnz < 0.9 * known.shape[0] * known.shape[1], "zeros are not stored"


def test_retrieval_scores_as_the_librarys_own_evaluator(
    sparse_encoder: Path, library: Any, text: list[str], tmp_path: Path
) -> None:
    from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator

    documents = {f"d{i:02d}": line for i, line in enumerate(dict.fromkeys(text[:40]))}
    queries = {f"q{i}": f"{line} ein" for i, line in enumerate(list(documents.values())[:12])}
    judged = {f"q{i}": {f"d{(5 * i) % 30:02d}", f"d{i:02d}"} for i in range(12)}
    folder = tmp_path / "retrieval" / "de"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [f'{{"_id": "{key}", "text": "{line}"}}' for key, line in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    rows = [
        f"{query}\t{document}\t1" for query, good in judged.items() for document in sorted(good)
    ]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")  # fmt: skip

    figures = score(sparse_encoder, tmp_path / "r.jsonl", source=LocalFolder(tmp_path), task="retrieval")  # fmt: skip

    evaluator = SparseInformationRetrievalEvaluator(queries, documents, judged, write_csv=False)
    expected = evaluator(library)
    found = {figure.metric: figure.value for figure in figures}
    for metric, name in (("ndcg_at_10", "dot_ndcg@10"), ("mrr_at_10", "dot_mrr@10")):
        assert found[metric] == pytest.approx(100 * expected[name], abs=1e-4)
    assert 5 < found["ndcg_at_10"] < 95


def test_pairs_and_neighbours_are_compared_without_spelling_zeros_out(
    sparse_encoder: Path, text: list[str], tmp_path: Path
) -> None:
    vectors, _ = open_vectors(str(sparse_encoder), Protocol()).encode(text[:20], "text", _silent, "")  # fmt: skip
    spelled = unit(vectors.toarray())
    np.testing.assert_allclose(unit(vectors).toarray(), spelled, atol=1e-6)
    np.testing.assert_allclose(near(unit(vectors), unit(vectors), 3), near(spelled, spelled, 3), atol=1e-5)  # fmt: skip

    (tmp_path / "sts").mkdir()
    rows = [f"{text[i]}\t{text[(7 * i) % 20]}\t{i % 5}" for i in range(20)]
    (tmp_path / "sts" / "de.tsv").write_text("\n".join(rows))
    (figure,) = score(sparse_encoder, tmp_path / "r.jsonl", source=LocalFolder(tmp_path), task="sts")  # fmt: skip
    assert figure.n == 20


def test_a_folder_with_its_pooling_is_a_sparse_encoder_whatever_it_was_saved_as(
    sparse_encoder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sparse_encoder, tmp_path / "old")
    (folder / "config_sentence_transformers.json").unlink()

    assert kind_of(str(sparse_encoder)) == kind_of(str(folder)) == "SparseEncoder"
    with pytest.raises(XevalError, match="is a sparse encoder, which is judged by its own pooling"):
        open_vectors(str(folder), Protocol(layer=1))


def test_the_head_that_makes_sparse_vectors_counts_among_their_operations(
    sparse_encoder: Path, models: Callable[[str], Path]
) -> None:
    sparse, plain = (cost(m, length=8, repeats=1) for m in (sparse_encoder, models("bert")))

    assert (sparse.with_head, plain.with_head) == (True, False)
    vocabulary = sparse.parameters.vocabulary
    assert sparse.flops - plain.flops == 2 * 8 * (32 * 32 + vocabulary)
    assert sparse.parameters == plain.parameters
