"""A trimmed model's card: what the Hub reads of it, and what people do."""

import json
from pathlib import Path

import pytest
import sentence_transformers
import transformers
from huggingface_hub import ModelCard

from vocabmerge import trim
from vocabmerge.encoder_folder.layout import Kind, Layout
from vocabmerge.encoder_folder.sentence_modules import Module
from vocabmerge.trim.card import card, percent, stated_licence


@pytest.fixture(scope="module")
def report(tmp_path_factory, trained, lines_of):
    """Of a tokenizer's trim; the text is not in the script that its language is expected to have."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "tokenizer.json").write_text(json.dumps(trained("unigram", "aa").tokenizer))
    (folder / "ru.txt").write_text("\n".join(lines_of("aa", 50)))
    return trim(folder / "tokenizer.json", {"ru": folder / "ru.txt"}, folder / "cut", top=150)


@pytest.mark.parametrize(
    ("kind", "reranker", "library", "task", "loader"),
    [
        (Kind.SENTENCE, None, "sentence-transformers", "sentence-similarity", "SentenceTransformer"),
        (Kind.SPARSE, None, "sentence-transformers", "feature-extraction", "SparseEncoder"),
        (Kind.CLASSIFIER, "stated", "sentence-transformers", "text-ranking", "CrossEncoder"),
        (Kind.CLASSIFIER, None, "transformers", "text-classification", "AutoModelForSequenceClassification"),
        (Kind.TOKEN_CLASSIFIER, None, "transformers", "token-classification", "AutoModelForTokenClassification"),
        (Kind.QUESTION_ANSWERING, None, "transformers", "question-answering", "AutoModelForQuestionAnswering"),
        (Kind.MASKED_LM, None, "transformers", "fill-mask", "AutoModelForMaskedLM"),
        (Kind.HEADLESS, None, "transformers", "feature-extraction", "AutoModel"),
        (Kind.TOKENIZER, None, "transformers", None, "AutoTokenizer"),
    ],
)  # fmt: skip
def test_a_card_says_how_its_kind_is_loaded(
    kind, reranker, library, task, loader, report, tmp_path
):
    layout = Layout(kind=kind, folder=tmp_path, reranker=reranker, prompts={"query": "ask: "})
    page = ModelCard(card(report, layout, name="someone/small"))
    assert (page.data.library_name, page.data.pipeline_tag) == (library, task)
    assert page.data.language == ["ru"]
    assert f'{loader}("someone/small")' in page.text or f'{loader}.from_pretrained("someone/small")' in page.text  # fmt: skip
    assert hasattr(sentence_transformers if library != "transformers" else transformers, loader)
    assert ('prompt_name="query"' in page.text) == (kind in (Kind.SENTENCE, Kind.SPARSE))


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_card(kind, report, tmp_path):
    assert '("someone/small")' in card(report, Layout(kind=kind, folder=tmp_path), name="someone/small")  # fmt: skip


@pytest.mark.parametrize("kind", [Kind.CLASSIFIER, Kind.CAUSAL_LM])
def test_what_lies_behind_modules_is_loaded_as_a_cross_encoder(kind, report, tmp_path):
    """A classifier of several labels, and a language model whose answers LogitScore reads."""
    module = Module(name="Transformer", path=Path(), file=Path("sentence_bert_config.json"))
    layout = Layout(kind=kind, folder=tmp_path, modules=(module,))
    page = ModelCard(card(report, layout, name="someone/small"))
    assert page.data.pipeline_tag == "text-ranking"
    assert 'CrossEncoder("someone/small")' in page.text


def test_a_card_names_its_base_and_what_looks_wrong(report, tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE\nlanguage: [en, ru]\n---\nbest of all"
    )
    base = {"hub": "someone/whole", "commit": "c0ffee"}
    layout = Layout(kind=Kind.TOKENIZER, folder=tmp_path)
    page = ModelCard(card({**report, "base": base}, layout, name="small"))
    assert page.data.base_model == "someone/whole"
    assert page.data.base_model_relation == "finetune"
    assert (page.data.license, page.data.license_name) == ("other", "theirs")
    assert "https://huggingface.co/someone/whole" in page.text
    assert "Suspicious: ru: 100% of the letters are Latin, where Cyrillic is expected" in page.text
    assert "best of all" not in page.content
    assert f"{report['pieces']['before']:,} pieces to 150" in page.text


@pytest.mark.parametrize(
    "readme", [None, "no header", "---\nlanguage: en\n---\n", "---\n: [\n---\n", "---\n- a\n---\n"]
)
def test_no_licence_is_made_up(readme, report, tmp_path):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert stated_licence(tmp_path) == {}
    page = ModelCard(card(report, Layout(kind=Kind.TOKENIZER, folder=tmp_path), name="small"))
    assert page.data.license is None
    assert page.data.base_model is None


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.995, "99.5 %"), (0.99999, "99.999 %"), (0.00001, "0.001 %")],
)
def test_a_share_is_not_rounded_to_all_or_nothing(share, shown):
    assert percent(share) == shown


def test_no_path_of_this_machine_is_in_a_report(report):
    assert str(Path.home()) not in json.dumps(report)
    assert "/tmp" not in json.dumps(report)  # where tests run
