"""Kind by kind: what a student is called, and how its user opens it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OpenedAs:
    """How a card names a student and shows it opened.

    Attributes:
        words: what it is.
        pipeline_tag: the Hub's name of its task.
        program: opens it.
        library: that the program is of.
        use: what one does with it; `{source}` and `{languages}` stand for its own.
    """

    words: str
    pipeline_tag: str
    program: str
    library: str = "transformers"
    use: str


_ACROSS = "It is for what its teacher does in {languages}; how near it comes on held-out text stands below."
_TUNED = "Tune it on a task in {source}, use it on {languages}."


def _pipeline(task: str, name: str) -> str:
    return f'from transformers import pipeline\n\n{name} = pipeline("{task}", model=STUDENT)'


def _sentence_transformers(name: str, *, call: str) -> str:
    return f"from sentence_transformers import {name}\n\nmodel = {name}(STUDENT)\n{call}"


OPENED_AS = {
    "masked_lm": OpenedAs(
        words="masked language model", pipeline_tag="fill-mask", program=_pipeline("fill-mask", "fill"), use=_TUNED
    ),
    "headless": OpenedAs(
        words="encoder", pipeline_tag="feature-extraction", use=_TUNED,
        program="from transformers import AutoModel, AutoTokenizer\n\nencoder, tokenizer = AutoModel.from_pretrained(STUDENT), AutoTokenizer.from_pretrained(STUDENT)",
    ),
    "sentence": OpenedAs(
        words="sentence encoder", pipeline_tag="sentence-similarity", library="sentence-transformers", use=_ACROSS,
        program=_sentence_transformers("SentenceTransformer", call="vectors = model.encode(SENTENCES)"),
    ),
    "multi_vector": OpenedAs(
        words="multi-vector encoder", pipeline_tag="sentence-similarity", library="sentence-transformers", use=_ACROSS,
        program=_sentence_transformers("MultiVectorEncoder", call="vectors = model.encode_document(TEXTS)"),
    ),
    "sparse": OpenedAs(
        words="sparse encoder", pipeline_tag="feature-extraction", library="sentence-transformers", use=_ACROSS,
        program=_sentence_transformers("SparseEncoder", call="vectors = model.encode(SENTENCES)"),
    ),
    "reranker": OpenedAs(
        words="reranker", pipeline_tag="text-ranking", library="sentence-transformers", use=_ACROSS,
        program=_sentence_transformers("CrossEncoder", call="scores = model.predict([(QUERY, PASSAGE)])"),
    ),
    "classifier": OpenedAs(
        words="classifier", pipeline_tag="text-classification", use=_ACROSS,
        program=_pipeline("text-classification", "classify"),
    ),
    "scorer": OpenedAs(
        words="scorer of texts", pipeline_tag="text-classification", use=_ACROSS,
        program=_pipeline("text-classification", "score"),
    ),
    "token_classifier": OpenedAs(
        words="token classifier", pipeline_tag="token-classification", use=_ACROSS,
        program=_pipeline("token-classification", "tag"),
    ),
    "question_answering": OpenedAs(
        words="model for question answering", pipeline_tag="question-answering", use=_ACROSS,
        program="from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\nmodel, tokenizer = AutoModelForQuestionAnswering.from_pretrained(STUDENT), AutoTokenizer.from_pretrained(STUDENT)",
    ),
}  # fmt: skip
"""Kind of a plan to how its student is opened."""
