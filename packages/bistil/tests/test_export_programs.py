"""The programs that serve exported folders answer as the libraries do that wrote the models, and import no torch."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import metadata_load
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast, pipeline

from bistil.export.folder.folder import FLOAT, INT8, write_folder
from bistil.export.folder.program import program
from bistil.export.folder.served_as import SERVED_AS
from bistil.export.graph.float32 import write_float
from bistil.export.graph.graph import open_graph

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LABELS = {"id2label": {0: "sport", 1: "health", 2: "travel"}, "label2id": {"sport": 0, "health": 1, "travel": 2}}  # fmt: skip
LONG = "abc dead mnop sort uvw. " * 30
MIXED = [
    *(f"{'ab mn ' * (number % 7)}{'qrst' * (number % 3)} gh." for number in range(31)),
    "",
    LONG,
]
FACTS = {
    "folder": "served",
    "opset": 18,
    "bytes": {FLOAT: 4_000_000, INT8: 1_000_000},
    "float32_difference": 1e-6,
}
NO_TORCH = "import sys\nfor name in ('torch', 'transformers', 'sentence_transformers', 'bistil'): sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def model(
    tokenizer: PreTrainedTokenizerFast, sentence_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:  # fmt: skip
    """A folder of a kind, as the library writes it whose users have such folders."""

    def write(kind: str) -> Path:
        if kind == "sentence":
            return sentence_teacher
        architecture, options = {
            "reranker": ("BertForSequenceClassification", {"num_labels": 1}),
            "classifier": ("BertForSequenceClassification", LABELS),
            "several_labels": ("BertForSequenceClassification", {**LABELS, "problem_type": "multi_label_classification"}),
            "one_label": ("BertForSequenceClassification", {"num_labels": 1, "problem_type": "multi_label_classification"}),
            "scorer": ("BertForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
            "scorer_of_three": ("BertForSequenceClassification", {**LABELS, "problem_type": "regression"}),
            "tagger": ("BertForTokenClassification", LABELS),
            "masked_words": ("BertForMaskedLM", {}),
            "states": ("BertModel", {}),
            "sparse": ("BertForMaskedLM", {}),
        }[kind]  # fmt: skip
        folder, around = (tmp_path_factory.mktemp(kind) for _ in range(2))
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            max_position_embeddings=40, initializer_range=0.4, pad_token_id=0, **options,
        )  # fmt: skip
        getattr(transformers, architecture)(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if kind == "reranker":
            CrossEncoder(str(folder)).save_pretrained(str(around))
        elif kind == "sparse":
            SparseEncoder(str(folder)).save(str(around))
        else:
            return folder
        return around

    return write


@pytest.fixture(scope="module")
def export_float(
    model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The float32 graph of a kind with all that lies beside it, so that answers are torch's."""
    top = tmp_path_factory.mktemp("exported")

    def export_kind(kind: str) -> Path:
        folder = top / kind
        if not folder.exists():
            (folder / FLOAT).parent.mkdir(parents=True)
            graph = open_graph(str(model(kind)))
            opset = write_float(graph, folder / FLOAT)
            write_folder(graph, folder, FACTS | {"model": str(graph.folder), "opset": opset})
        return folder

    return export_kind


def _serve(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"serve_{folder.name}", folder / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(folder: Path, *arguments: str) -> list[str]:
    """What `serve.py` prints where no torch can be imported."""
    command = f"{NO_TORCH}import runpy\nsys.argv[0] = 'serve.py'\nrunpy.run_path('serve.py', run_name='__main__')"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", command, *arguments], cwd=folder, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "manhattan"])
def test_texts_are_searched_by_the_models_own_similarity(
    measure: str, export_float: Callable[[str], Path], sentence_teacher: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sentence_teacher, tmp_path / "model")
    stated = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps(stated | {"similarity_fn_name": measure})
    )
    served = _serve(export_float("sentence"))
    encoder = served.SentenceEncoder(threads=1)
    assert encoder.about["similarity"] == "cosine"
    encoder.about["similarity"] = open_graph(str(folder)).similarity
    first, second = np.random.default_rng(0).normal(size=(2, 3, 24)).astype(np.float32)
    encoder.encode = lambda texts, **_options: first[:1] if texts == ["a query"] else second

    found = encoder.search("a query", ["a", "b", "c"])

    reference = SentenceTransformer(str(folder), device="cpu")
    expected = dict(zip("abc", reference.similarity(first[:1], second)[0].tolist(), strict=True))
    assert {text: score for score, text in found} == pytest.approx(expected, abs=1e-5)
    assert [text for _, text in found] == sorted("abc", key=lambda text: -expected[text])


def test_vectors_are_those_of_sentence_transformers(
    export_float: Callable[[str], Path], sentence_teacher: Path
) -> None:
    encoder = _serve(export_float("sentence")).SentenceEncoder(threads=1)
    reference = SentenceTransformer(str(sentence_teacher), device="cpu")

    for texts, options in (
        (MIXED, {}),
        (MIXED, {"prompt_name": "query"}),
        ([LONG], {"prompt": "mnop "}),
        ([""], {}),
    ):
        expected = reference.encode(texts, **options)
        vectors = encoder.encode(texts, batch_size=8, **options)
        np.testing.assert_allclose(vectors, expected, atol=1e-4)
        assert vectors.dtype == np.float32
    with pytest.raises(
        ValueError, match=r"prompt_name 'passage': the model has \['document', 'query'\]"
    ):
        encoder.encode(["a"], prompt_name="passage")
    assert len(encoder.encode([])) == 0


def test_texts_are_found_as_sentence_transformers_finds_them(
    export_float: Callable[[str], Path], sentence_teacher: Path
) -> None:
    reference = SentenceTransformer(str(sentence_teacher), device="cpu")
    expected = reference.similarity(reference.encode_query(["dead gh"]), reference.encode_document(MIXED[1:9]))[0]  # fmt: skip

    printed = _run(export_float("sentence"), "--threads", "1", "dead gh", *MIXED[1:9])

    order = expected.argsort(descending=True).tolist()
    assert [line.split("\t")[0] for line in printed] == [
        f"{expected[place]:.3f}" for place in order
    ]
    [vector] = _run(export_float("sentence"), "dead gh")
    assert len(json.loads(vector)) == 24


def test_passages_are_scored_as_a_cross_encoder_scores_them(
    export_float: Callable[[str], Path], model: Callable[[str], Path]
) -> None:
    reference = CrossEncoder(str(model("reranker")), device="cpu")

    scores = _serve(export_float("reranker")).Reranker().score("ab dead", MIXED, batch_size=8)

    expected = reference.predict([("ab dead", passage) for passage in MIXED])
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    best, *_ = _run(export_float("reranker"), "ab dead", *MIXED[:5])
    assert best.startswith(f"{max(expected[:5]):.3f}\t")


def test_words_are_labelled_as_a_pipeline_labels_their_first_tokens(
    export_float: Callable[[str], Path], model: Callable[[str], Path]
) -> None:
    reference = pipeline("token-classification", model=str(model("tagger")), device="cpu", ignore_labels=[])  # fmt: skip
    tagger = _serve(export_float("tagger")).Tagger()
    texts = ["abc dead, mnop.", "", "sort", *MIXED[10:14]]

    tagged = tagger.tag(texts)

    for text, words in zip(texts, tagged, strict=True):
        tokens = reference(text) if text else []
        firsts = [token["entity"] for token in tokens if not token["word"].startswith("##")]
        assert [label for _, label in words] == firsts
        assert "".join(word for word, _ in words) == text.replace(" ", "")
    lines = _run(export_float("tagger"), texts[0])
    assert lines == [*(f"{word}\t{label}" for word, label in tagged[0]), ""]


def test_no_word_of_a_long_sentence_is_left_unlabelled(export_float: Callable[[str], Path]) -> None:
    tagger = _serve(export_float("tagger")).Tagger()
    words = LONG.replace(".", " .").split()

    from_text, from_words = (tagger.tag([sentence])[0] for sentence in (LONG, words))

    assert [word for word, _ in from_text] == words
    assert from_words == from_text
    [strange] = tagger.tag([["abc", "\u0300", "dead"]])
    assert [word for word, _ in strange] == ["abc", "\u0300", "dead"]
    empty, unknown = tagger.tag([["abc", "", "dead"], ["abc", "[UNK]", "dead"]])
    assert [word for word, _ in empty] == ["abc", "", "dead"]
    assert [label for _, label in empty] == [label for _, label in unknown]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "several_labels", "one_label"])
def test_texts_are_labelled_as_a_pipeline_labels_them(
    kind: str, export_float: Callable[[str], Path], model: Callable[[str], Path]
) -> None:
    reference = pipeline("text-classification", model=str(model(kind)), device="cpu", top_k=None, truncation=True, max_length=40)  # fmt: skip

    classified = _serve(export_float(kind)).Classifier().classify(MIXED, batch_size=8)

    for labels, expected in zip(classified, reference(MIXED), strict=True):
        assert labels == pytest.approx(
            {entry["label"]: entry["score"] for entry in expected}, abs=1e-4
        )
        assert list(labels.values()) == sorted(labels.values(), reverse=True)
    lines = _run(export_float(kind), "--pairs", "abc", "mnop", "", "gh")
    assert [line.split("\t")[2] for line in lines] == ["abc | mnop", " | gh"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scorer", "scorer_of_three"])
def test_texts_are_scored_as_a_pipeline_scores_them(
    kind: str, export_float: Callable[[str], Path], model: Callable[[str], Path]
) -> None:
    reference = pipeline("text-classification", model=str(model(kind)), device="cpu", top_k=None, truncation=True, max_length=40)  # fmt: skip

    scored = _serve(export_float(kind)).Scorer().score(MIXED, batch_size=8)

    expected = [{entry["label"]: entry["score"] for entry in listed} for listed in reference(MIXED)]
    for scores, of_pipeline in zip(scored, expected, strict=True):
        assert scores == pytest.approx(of_pipeline, abs=1e-4)
    lines = _run(export_float(kind), "--pairs", "abc", "mnop", "", "gh")
    assert [line.split("\t")[-1] for line in lines] == ["abc | mnop", " | gh"]


@pytest.mark.slow
def test_masked_words_are_guessed_as_a_pipeline_guesses_them(
    export_float: Callable[[str], Path], model: Callable[[str], Path]
) -> None:
    expected = pipeline("fill-mask", model=str(model("masked_words")), device="cpu")("abc [MASK] mnop.")  # fmt: skip

    [guesses] = _serve(export_float("masked_words")).MaskedWords().fill("abc [MASK] mnop.")

    assert [share for _, share in guesses] == pytest.approx(
        [entry["score"] for entry in expected], abs=1e-4
    )
    [line] = _run(export_float("masked_words"), "abc [MASK] mnop.")
    program = _serve(export_float("masked_words")).MaskedWords()
    with pytest.raises(
        ValueError, match=r"'abc mnop.': no word is masked; write '\[MASK\]' in the place"
    ):
        program.fill("abc mnop.")
    # A guess for one of two masks would look like all of them.
    with pytest.raises(
        ValueError,
        match=r"a '\[MASK\]' stands outside the \d+ tokens that the model reads; shorten",
    ):
        program.fill("[MASK] " + "abc " * 600 + "[MASK]")
    assert line.split("\t")[0] == f"{guesses[0][0]} {guesses[0][1]:.3f}"


@pytest.mark.slow
def test_states_and_sparse_vectors_are_those_of_the_model(
    export_float: Callable[[str], Path], model: Callable[[str], Path]
) -> None:
    texts = ["abc dead, mnop.", "", "sort"]
    tokenizer = AutoTokenizer.from_pretrained(model("states"))
    encoder = transformers.AutoModel.from_pretrained(model("states")).eval()

    states = _serve(export_float("states")).Encoder().states(texts)
    vectors = _serve(export_float("sparse")).SparseEncoder().encode(texts)

    for text, state in zip(texts, states, strict=True):
        with torch.no_grad():
            expected = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(state, expected, atol=1e-4)
    sparse = SparseEncoder(str(model("sparse")), device="cpu").encode(
        texts, convert_to_sparse_tensor=False
    )
    np.testing.assert_allclose(np.stack(vectors), sparse.numpy(), atol=1e-4)
    assert (
        len(_run(export_float("states"), *texts)) == len(_run(export_float("sparse"), *texts)) == 3
    )


@pytest.mark.parametrize("kind", SERVED_AS)
def test_a_program_is_one_file_that_holds_what_its_kind_needs_and_no_more(kind: str) -> None:
    text = program(SERVED_AS[kind].program)

    tree = ast.parse(text)
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    libraries = {"numpy", "onnxruntime", "tokenizers"}
    assert (
        libraries - {"numpy"}
        <= {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names}
        <= libraries
    )
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert len(defined & {entry.example.split()[3] for entry in SERVED_AS.values()}) == 1
    assert ("best_tree" in defined) == (kind == "parser")


def test_modules_and_prompts_lie_byte_for_byte_where_sentence_transformers_looks(
    export_float: Callable[[str], Path], sentence_teacher: Path
) -> None:
    folder = export_float("sentence")

    here = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    beside = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "config.json", "tokenizer.json"}  # fmt: skip
    modules = {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "3_Normalize/config.json"}  # fmt: skip
    assert here == {
        *beside,
        *modules,
        "tokenizer_config.json",
        "onnx/model.onnx",
        "export.json",
        "serve.py",
        "README.md",
    }
    for name in (*beside, *modules):
        assert (folder / name).read_bytes() == (sentence_teacher / name).read_bytes()
    about = json.loads((folder / "export.json").read_text())
    assert about["prompts"] == {"query": "ask: "} | about["prompts"]
    assert about["longest"] == 40


def test_a_tokenizer_is_named_so_that_older_libraries_open_it(
    export_float: Callable[[str], Path], sentence_teacher: Path
) -> None:
    written = json.loads((export_float("sentence") / "tokenizer_config.json").read_text())

    source = json.loads((sentence_teacher / "tokenizer_config.json").read_text())
    assert source["tokenizer_class"] == "TokenizersBackend"
    assert written == source | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 40,
    }
    assert AutoTokenizer.from_pretrained(export_float("sentence")).model_max_length == 40


def test_a_tokenizer_that_others_would_read_otherwise_is_written_as_the_model_was_asked(
    export_float: Callable[[str], Path], sentence_teacher: Path, tmp_path: Path
) -> None:
    """Here by the setting with which old folders of sentence-transformers say that texts are lowercased."""
    shutil.copytree(sentence_teacher, tmp_path / "lower")
    settings = tmp_path / "lower" / "sentence_bert_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_lower_case": True}))
    graph = open_graph(str(tmp_path / "lower"))

    write_folder(graph, tmp_path / "out", FACTS | {"model": str(tmp_path / "lower")})

    raw = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert raw.encode("ABC dEad").ids == graph.tokenizer("abc dead")["input_ids"]
    before = Tokenizer.from_file(str(export_float("sentence") / "tokenizer.json"))
    assert before.encode("ABC dEad").ids != raw.encode("ABC dEad").ids


def test_a_card_states_licence_languages_and_figures_and_no_path(
    sentence_teacher: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sentence_teacher, source)
    (source / "README.md").write_text(
        "---\nlicense: mit\nlanguage:\n- sw\nbase_model: big/model\n---\n"
    )
    drop = {
        "place": "sw",
        "measure": "cosine",
        "n": 300,
        "float32": 100.0,
        "quantized": 99.71,
        "points": 0.29,
        "low": 0.2,
        "high": 0.4,
    }
    judged = {
        "variant": "weights int8 per column",
        "target": "cpu",
        "verdict": "It loses 0.29 points.",
        "drops": [drop],
    }

    write_folder(
        open_graph(str(source)),
        tmp_path / "out",
        FACTS | judged | {"model": str(source), "folder": str(tmp_path / "out")},
    )

    page = (tmp_path / "out" / "README.md").read_text()
    header = metadata_load(tmp_path / "out" / "README.md")
    assert header["license"] == "mit"
    assert header["language"] == ["sw"]
    assert header["base_model"] == "big/model"
    assert header["library_name"] == "sentence-transformers"
    assert header["pipeline_tag"] == "sentence-similarity"
    assert "| sw | cosine | 300 | 100.00 | 99.71 | 0.29 | 0.20 to 0.40 |" in page
    assert "Stored: weights int8 per column (made for `cpu`)." in page
    assert "not judged" not in page
    for file in ("README.md", "export.json", "config.json"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()


@pytest.mark.parametrize("kind", ["sentence", "reranker", "tagger", "scorer"])
def test_a_card_shows_each_server_where_the_kind_fits(
    kind: str, export_float: Callable[[str], Path]
) -> None:
    page = (export_float(kind) / "README.md").read_text()

    shown = {
        "sentence": {"SentenceTransformer(", "TextEmbedding(", "/embed ", "AutoModel.from_pretrained"},
        "reranker": {"CrossEncoder(", "TextCrossEncoder(", "/rerank "},
        "tagger": {"pipeline('token-classification'"},
        "scorer": {"Scorer().score("},
    }  # fmt: skip
    for other_kind, words in shown.items():
        for word in words - (shown[kind] if other_kind != kind else set()):
            assert (word in page) == (other_kind == kind), word
    assert "not judged" in page
    example = page.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH + example],
        cwd=export_float(kind),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
