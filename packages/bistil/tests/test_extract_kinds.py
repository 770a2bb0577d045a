"""Students of every kind of teacher, whose folders the writers' own libraries wrote and whose users' classes open."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import metadata_load
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, PreTrainedTokenizerFast

from bistil.compare.models import require_kind
from bistil.compare.recipe import Comparison
from bistil.encoders.answers import assumption
from bistil.errors import AdaptError, ExtractError, ModelError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.extract.text import open_text
from bistil.losses.weights import LossWeights, weights_for
from bistil.lottery.config import Sparsity
from bistil.lottery.language import language_sft
from bistil.make.answers import label_logits
from bistil.sparse.files import read_sparse, write_sparse
from bistil.tasks.adapt import TASK_FILE, adapt
from bistil.tasks.compose import compose
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from bistil.text.pairing import paired_files
from bistil.text.rows import TextRows
from teacherzoo import TeacherError, load_teacher
from teacherzoo.progress import no_progress
from vocabmerge import Kind, read_layout
from xeval import LocalFolder, Protocol, read_finetuned

SHORT = Extraction(
    steps=8, batch=4, length=32, learning_rate=1e-3, held_out_share=0.1, checkpoint_every=8, precision="float32"
)  # fmt: skip
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
LABELS = {"id2label": {0: "sport", 1: "health", 2: "travel"}, "label2id": {"sport": 0, "health": 1, "travel": 2}}  # fmt: skip


@pytest.fixture(scope="module")
def save(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Writes a BERT of a class by transformers, and around it a folder of sentence-transformers where one is asked for."""

    def save_as(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        architecture, options, built = {
            "headless": ("BertModel", {}, {"add_pooling_layer": False}),
            "pooled": ("BertModel", {}, {}),
            "sentence": ("BertModel", {}, {"add_pooling_layer": False}),
            "dense": ("BertModel", {}, {"add_pooling_layer": False}),
            "reranker": ("BertForSequenceClassification", {"num_labels": 1}, {}),
            "prompted": ("BertForSequenceClassification", {"num_labels": 1}, {}),
            "sparse": ("BertForMaskedLM", {}, {}),
            "classifier": ("BertForSequenceClassification", LABELS, {}),
            "scorer": (
                "BertForSequenceClassification",
                {"num_labels": 1, "problem_type": "regression"},
                {},
            ),
            "undecided": ("BertForSequenceClassification", {"num_labels": 1}, {}),
            "token_classifier": ("BertForTokenClassification", LABELS, {}),
            "question_answering": ("BertForQuestionAnswering", {}, {}),
        }[kind]
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(tokenizer), **SIZES, **options)
        getattr(transformers, architecture)(config, **built).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        around, prompts = tmp_path_factory.mktemp(kind), {"query": "bad "}
        if kind in ("sentence", "dense"):
            behind = [Dense(16, 8)] if kind == "dense" else []
            modules = [Transformer(str(folder)), Pooling(16), *behind, Normalize()]
            SentenceTransformer(modules=modules, prompts=prompts).save(str(around))
        elif kind == "reranker":
            CrossEncoder(str(folder)).save_pretrained(str(around))
        elif kind == "prompted":
            model = CrossEncoder(str(folder), prompts=prompts, default_prompt_name="query")
            model.save_pretrained(str(around))
        elif kind == "sparse":
            SparseEncoder(str(folder)).save(str(around))
        else:
            return folder
        return around

    return save_as


def _extract(
    teacher: Path, texts: dict[str, Path], out: Path, extraction: Extraction = SHORT
) -> Path:
    languages = {language: texts[language] for language in ("en", "sw")}
    return extract(teacher, languages, out, source="en", targets=["sw"], extraction=extraction)


OPENED_BY = {
    "headless": transformers.AutoModel,
    "pooled": transformers.AutoModel,
    "sentence": SentenceTransformer,
    "dense": SentenceTransformer,
    "reranker": CrossEncoder,
    "sparse": SparseEncoder,
    "classifier": transformers.AutoModelForSequenceClassification,
    "scorer": transformers.AutoModelForSequenceClassification,
    "token_classifier": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
}
WITH_ANSWERS = ("reranker", "classifier", "scorer", "token_classifier", "question_answering")


@pytest.mark.parametrize("kind", OPENED_BY)
def test_a_student_is_of_its_teachers_kind_and_layout(
    kind: str, save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    teacher = save(kind)

    out = _extract(teacher, texts, tmp_path / "student")

    run = json.loads((out / "run.json").read_text())
    expected = {"pooled": "headless", "dense": "sentence"}.get(kind, kind)
    assert run["plan"]["kind"] == expected
    assert ("answers_mse" in run["plan"]["terms"]) == (kind in WITH_ANSWERS)
    assert run["plan"]["pieces"][1] < run["plan"]["pieces"][0]
    held_out = run["held_out"]
    for term, before in held_out["before"]["sw"].items():
        assert held_out["after"]["sw"][term] < before, term
    # The same files lie at the same places, and the same class opens them.
    parts = {str(file.relative_to(teacher)) for file in teacher.rglob("*.json")}
    assert parts <= {str(file.relative_to(out)) for file in out.rglob("*.json")}
    opened = {name: OPENED_BY[kind].from_pretrained(str(folder)) if hasattr(OPENED_BY[kind], "from_pretrained") else OPENED_BY[kind](str(folder), device="cpu") for name, folder in (("teacher", teacher), ("student", out))}  # fmt: skip
    before, after = ({name: tensor.shape for name, tensor in model.state_dict().items()} for model in opened.values())  # fmt: skip
    layers = {name for name in before if ".layer.2." in name or ".layer.3." in name}
    assert before.keys() - layers == after.keys()
    line = texts["sw"].read_text().splitlines()[0]
    if kind in ("sentence", "dense"):
        vectors = [model.encode([line], prompt_name="query") for model in opened.values()]
        assert vectors[0].shape == vectors[1].shape == (1, 8 if kind == "dense" else 16)
    elif kind == "reranker":
        assert opened["student"].predict([(line, line)]).shape == (1,)
    elif kind in ("classifier", "token_classifier"):
        assert opened["student"].config.id2label == LABELS["id2label"]
    elif kind == "sparse":
        assert opened["student"].encode([line]).shape == (1, run["plan"]["pieces"][1])


def test_a_rerankers_default_prompt_stands_before_queries_in_training_and_when_it_is_judged(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    folder, pairs = save("prompted"), [("ab", "cd ef"), ("gh bad", "mn"), ("", "ab")]
    (tmp_path / "en.tsv").write_text("\n".join(map("\t".join, pairs[:2])) + "\n")
    extraction = replace(SHORT, loss=weights_for(Kind.CLASSIFIER), held_out_share=0)

    text = open_text(load_teacher(folder, headless=True), {"en": [tmp_path / "en.tsv"]}, tmp_path / "cache", extraction, watch=no_progress)  # fmt: skip

    reference = CrossEncoder(str(folder), device="cpu")
    assert isinstance(text, TextRows)
    for number, pair in enumerate(pairs[:2]):
        [expected] = reference.preprocess([pair], prompt="bad ")["input_ids"].tolist()
        assert text.groups["en"].rows.padded([number], 0)["input_ids"][0].tolist() == expected
    logits = reference.predict(pairs, activation_fn=torch.nn.Identity())
    assert label_logits(folder, pairs)[:, 0] == pytest.approx(logits, abs=1e-5)


def test_a_scorer_of_texts_learns_from_single_texts_and_is_no_reranker(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    out = _extract(save("scorer"), texts, tmp_path / "student", replace(SHORT, steps=0))

    run, card = (out / "run.json").read_text(), metadata_load(out / "README.md")
    plan = json.loads(run)["plan"]
    lines = {language: set(texts[language].read_text().splitlines()) for language in ("en", "sw")}
    assert all(plan["blocks"][language] <= len(lines[language]) for language in lines)
    assert plan["assumed"] == []
    assert (card["pipeline_tag"], card["library_name"]) == ("text-classification", "transformers")
    assert "A small scorer of texts for en and sw" in (out / "README.md").read_text()
    line = min(lines["sw"], key=len)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    with torch.no_grad():
        logit = model(**tokenizer(line, return_tensors="pt")).logits.item()
    [scored] = transformers.pipeline("text-classification", model=str(out), device="cpu")(line)
    assert scored["score"] == pytest.approx(logit, abs=1e-5)


def test_what_a_classifier_with_one_output_is_taken_for_is_said_where_its_files_do_not_say(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []
    languages = {language: texts[language] for language in ("en", "sw")}
    extract(
        save("undecided"), languages, tmp_path / "student", source="en", targets=["sw"],
        extraction=replace(SHORT, steps=0), tell=lambda plan: told.extend(plan.lines()),
    )  # fmt: skip

    assert any("(reranker)" in line for line in told)
    assert any('add "problem_type": "regression" to its config.json' in line for line in told)
    assert (
        assumption(read_layout(save("reranker"))) == assumption(read_layout(save("scorer"))) == []
    )


def test_that_one_label_of_several_holds_is_said_where_the_files_do_not_say(
    save: Callable[..., Path],
) -> None:
    """What transformers trains has a `problem_type`; other trainers may write none, for labels that hold together, too."""
    folder = save("classifier")
    [said] = assumption(read_layout(folder))
    assert 'If several may hold, add "problem_type": "multi_label_classification"' in said
    [answer] = transformers.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)(["ab cd"])  # fmt: skip
    assert sum(label["score"] for label in answer) == pytest.approx(1)

    config = transformers.AutoConfig.from_pretrained(folder)
    for stated in ("multi_label_classification", "single_label_classification"):
        config.problem_type = stated
        config.save_pretrained(folder)
        assert assumption(read_layout(folder)) == []


def test_terms_that_a_kind_has_nothing_for_are_refused_by_name(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    for kind, loss, said in (
        ("headless", LossWeights(mlm=1), "mlm needs a masked-LM head, which a teacher of kind 'headless' does not have"),
        ("sentence", LossWeights(logits=1), "logits needs a masked-LM head, which a teacher of kind 'sentence'"),
        ("sentence", LossWeights(answers=1), "answers needs a classifier's or reranker's head, which a teacher of kind 'sentence'"),
        ("headless", LossWeights(embedding=1), "embedding needs the pooling of a sentence encoder"),
    ):  # fmt: skip
        with pytest.raises(ExtractError, match=said):
            _extract(save(kind), texts, tmp_path / "out", replace(SHORT, loss=loss))
    with pytest.raises(ExtractError, match="mlm is computed on masked running text, the other terms on whole sentences"):  # fmt: skip
        LossWeights(mlm=1, answers=1)
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("classifier", {"width": 8}, "the head of BertForSequenceClassification reads all 16 hidden units"),
        ("dense", {"width": 8}, "2_Dense of .* reads states as wide as the teacher's"),
        ("headless", {"offload": "cpu"}, "offload shares the weights of masked LMs alone, and this is a teacher of kind 'headless'"),
    ],
)  # fmt: skip
def test_what_a_kind_cannot_have_is_refused_before_text_is_read(
    kind: str,
    changes: dict[str, Any],
    said: str,
    save: Callable[..., Path],
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises((ExtractError, ModelError), match=said):
        _extract(save(kind), texts, tmp_path / "out", replace(SHORT, **changes))


def test_answers_of_a_regression_are_no_distributions(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    teacher = save("classifier")
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))

    with pytest.raises(ExtractError, match=r"its problem_type is 'regression'.*; use answers_mse"):
        _extract(teacher, texts, tmp_path / "out", replace(SHORT, loss=LossWeights(answers=1)))


def test_without_a_mask_token_nothing_is_masked(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    teacher = save("headless")
    config = teacher / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"mask_token"', '"no_token"'))

    with pytest.raises(ExtractError, match=r"no mask token, so mask_rate must be 0, got 0\.15"):
        _extract(teacher, texts, tmp_path / "out")
    assert _extract(teacher, texts, tmp_path / "plain", replace(SHORT, mask_rate=0)).is_dir()


def test_a_narrower_sentence_encoder_pools_what_it_has(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    narrow = replace(SHORT, width=8, loss=None)

    out = _extract(save("sentence"), texts, tmp_path / "out", narrow)

    assert narrow.decided(Kind.SENTENCE).weights == LossWeights.only(similarity=1, hidden=1)
    assert SentenceTransformer(str(out), device="cpu").encode(["bad"]).shape == (1, 8)


def test_text_of_two_columns_is_read_as_pairs_and_other_text_is_paired_for_rerankers(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    lines = texts["en"].read_text().splitlines()
    paired = tmp_path / "en.txt"
    paired.write_text("\n".join(f"{a}\t{b}" for a, b in zip(lines[::2], lines[1::2], strict=True)))

    made = paired_files({"en": [paired], "sw": [texts["sw"]]}, tmp_path, watch=no_progress)

    assert made["en"] == [paired]
    swahili = [line.split("\t") for line in made["sw"][0].read_text().splitlines()]
    first, second, third = texts["sw"].read_text().splitlines()[:3]
    assert swahili[:3] == [[first, second], [second, third], [third, first]]
    with pytest.raises(ExtractError, match=r"sw: its text has one column and that of en two"):
        _extract(save("classifier"), {**texts, "en": paired}, tmp_path / "out")


@pytest.mark.parametrize("has_units", [True, False])
def test_auto_precision_is_what_the_machine_has_units_for(
    has_units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teacherzoo.training.arguments.has_bfloat16", lambda: has_units)

    decided = Extraction().decided(Kind.MASKED_LM)

    assert decided.precision == ("bfloat16" if has_units else "float32")
    assert replace(Extraction(), precision="float32").decided(Kind.MASKED_LM).precision == "float32"


def test_a_student_of_a_sentence_encoder_learns_a_task_and_other_commands_say_what_it_lacks(
    save: Callable[..., Path], texts: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    teacher = save("sentence")
    student = _extract(teacher, texts, tmp_path / "student")
    training = TaskTraining(
        protocol=Protocol(steps=2, evaluate_every=2, batch_size=6, max_length=40, precision="float32"),
        sparsity=Sparsity(density=0.08, full_steps=2),
    )  # fmt: skip

    adapted = adapt(
        student, tmp_path / "adapted", task="topic", source=LocalFolder(tasks), language="en",
        teacher=TaskTeacher(model=teacher), training=training,
    )  # fmt: skip
    plain = SentenceTransformer(str(student), device="cpu")
    tuning = read_sparse(adapted / TASK_FILE)
    language = replace(tuning, head={}, about={"kind": "language"})
    write_sparse(language, tmp_path / "topic.safetensors")
    composed = compose(student, tmp_path / "composed", add=[tmp_path / "topic.safetensors"])

    assert read_finetuned(adapted).task == "topic"
    changed = SentenceTransformer(str(composed), device="cpu")
    assert changed.prompts == plain.prompts
    assert not torch.equal(*(model[0].model.embeddings.word_embeddings.weight for model in (changed, plain)))  # fmt: skip
    with pytest.raises(TeacherError, match="it was saved as BertModel, whose head cannot say"):
        language_sft(student, texts["sw"], tmp_path / "sw.safetensors", language="sw")


def test_a_comparison_of_headless_models_does_without_what_masked_words_teach(
    save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    stated = {
        "model": str(save("headless")), "corpora": {code: str(file) for code, file in texts.items()}, "targets": ["sw"],
        "tasks": ["pos"], "out": str(tmp_path / "run"),
    }  # fmt: skip

    with pytest.raises(AdaptError, match=r"distilmbert\+labels learn by a masked-LM head"):
        require_kind(Comparison(**stated))
    with pytest.raises(AdaptError, match="write `languages: null`"):
        require_kind(Comparison(**stated, systems=["bistil"]))
    require_kind(Comparison(**stated, systems=["bistil"], languages=None))
