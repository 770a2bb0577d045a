"""Kind by kind: the program that serves an export, what the Hub calls it, and how a user asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vocabmerge import Kind

if TYPE_CHECKING:
    from bistil.export.graph.graph import Graph


@dataclass(frozen=True, kw_only=True)
class ServedAs:
    """How a kind of model is served.

    Attributes:
        program: the file of `programs/`.
        words: what it is.
        pipeline_tag: the Hub's name of its task.
        library: that the Hub lists it under.
        example: of its program.
        loader: the class of sentence-transformers that opens the folder; "" where none does.
    """

    program: str
    words: str
    pipeline_tag: str
    example: str
    library: str = "transformers"
    loader: str = ""


def served_as(graph: Graph) -> ServedAs:
    """How a graph is served."""
    return SERVED_AS[_name(graph)]


def _name(graph: Graph) -> str:
    outputs = graph.outputs
    if "arcs" in outputs:
        return "parser"
    if "score" in outputs:
        return "reranker" if "logits" in outputs else "chooser"
    if "sentence_embedding" in outputs:
        return "sparse" if graph.kind is Kind.SPARSE else "sentence"
    if len(outputs) == 2:
        return "reader"
    if "last_hidden_state" in outputs:
        return "states"
    axes = outputs["logits"]
    if axes[-1] != "labels":
        return "masked_words"
    if len(axes) == 3:
        return "tagger"
    return "scorer" if graph.regression else "classifier"


_TEXTS = '["This is one sentence.", "And this is another."]'
SERVED_AS = {
    "sentence": ServedAs(
        program="sentence", words="sentence encoder", pipeline_tag="sentence-similarity", library="sentence-transformers",
        loader="SentenceTransformer",
        example=f"from serve import SentenceEncoder\n\nencoder = SentenceEncoder()\nprint(encoder.encode({_TEXTS}).shape)\n"
        'print(encoder.search("Which is the other?", ["This is one sentence.", "And this is another."]))',
    ),
    "reranker": ServedAs(
        program="reranker", words="reranker", pipeline_tag="text-ranking", library="sentence-transformers", loader="CrossEncoder",
        example=f'from serve import Reranker\n\nprint(Reranker().score("Which is the other?", {_TEXTS}))',
    ),
    "sparse": ServedAs(
        program="sparse", words="sparse encoder", pipeline_tag="feature-extraction", library="sentence-transformers",
        loader="SparseEncoder",
        example=f"from serve import SparseEncoder\n\nencoder = SparseEncoder()\nfor vector in encoder.encode({_TEXTS}):\n"
        "    print(encoder.pieces(vector))",
    ),
    "classifier": ServedAs(
        program="classifier", words="classifier", pipeline_tag="text-classification",
        example="from serve import Classifier\n\ntexts = TEXTS\nfor labels, text in zip(Classifier().classify(texts), texts):\n"
        '    print(next(iter(labels)), text, sep="\\t")',
    ),
    "scorer": ServedAs(
        program="scorer", words="scorer of texts", pipeline_tag="text-classification",
        example="from serve import Scorer\n\ntexts = TEXTS\nfor scores, text in zip(Scorer().score(texts), texts):\n"
        '    print(*scores.values(), text, sep="\\t")',
    ),
    "tagger": ServedAs(
        program="tagger", words="token classifier", pipeline_tag="token-classification",
        example=f'from serve import Tagger\n\nfor words in Tagger().tag({_TEXTS}):\n    for word, label in words:\n        print(word, label, sep="\\t")',
    ),
    "parser": ServedAs(
        program="parser", words="parser", pipeline_tag="token-classification",
        example="from serve import Parser\n\nparser = Parser()\n"
        'for words in [["This", "is", "one", "sentence", "."], ["And", "this", "is", "another", "."]]:\n'
        "    for number, (word, (head, relation)) in enumerate(zip(words, parser.parse(words)), 1):\n"
        '        print(number, word, head, relation, sep="\\t")\n    print()',
    ),
    "reader": ServedAs(
        program="reader", words="model for question answering", pipeline_tag="question-answering",
        example="from serve import Reader\n\nreader = Reader()\n"
        'for question, context in [("Where does the cat sleep?", "The cat sleeps in the house."), ("Who sleeps?", "The cat sleeps.")]:\n'
        '    print(question, reader.answer(question, context), sep="\\t")',
    ),
    "chooser": ServedAs(
        program="choice", words="model for multiple choice", pipeline_tag="multiple-choice",
        example="from serve import Chooser\n\n"
        'passage, question, options = "The cat sleeps in the house.", "Where is the cat?", ["in the house", "in the river"]\n'
        "print(Chooser().choose(passage, question, options))",
    ),
    "masked_words": ServedAs(
        program="masked_words", words="masked language model", pipeline_tag="fill-mask",
        example='from serve import MaskedWords\n\nprint(MaskedWords().fill("This is one MASK."))',
    ),
    "states": ServedAs(
        program="states", words="encoder", pipeline_tag="feature-extraction",
        example=f"from serve import Encoder\n\nfor states in Encoder().states({_TEXTS}):\n    print(states.shape)",
    ),
}  # fmt: skip
"""Name to how such a model is served."""
