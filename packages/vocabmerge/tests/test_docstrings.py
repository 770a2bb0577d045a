"""The examples in docstrings are run, in an empty folder, with the public names at hand."""

import doctest
import pkgutil
from importlib import import_module

import pytest
import transformers

import vocabmerge

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(vocabmerge.__path__, "vocabmerge.")
    if not module.ispkg and not module.name.endswith("__main__")
)
VERBS = (
    "apply_patch",
    *("carry", "carry_model", "choose_fair", "compare_segmentation", "count_characters"),
    *("count_pieces",),
    *("find_conflicts", "identity_map", "inspect", "load_map", "map_of_ids", "map_of_lists"),
    *(
        "merge_vocabularies",
        "more_lines",
        "open_tokenizer",
        "overlap",
        "parse_vocabulary",
        "push_folder",
    ),
    *("read_corpus", "read_layout", "read_source", "read_vocabulary", "rewrite_tokenizer"),
    *("sample_lines", "save_merged", "select_rows", "tokenizer_digest", "trim", "trim_vocabulary"),
)


@pytest.fixture(scope="module", autouse=True)
def announced(tmp_path_factory):
    """DeepSpeed, where it is installed, announces itself on standard output when a model is first saved."""
    tiny = transformers.BertConfig(
        vocab_size=1, hidden_size=1, num_hidden_layers=0, num_attention_heads=1
    )
    transformers.BertModel(tiny).save_pretrained(tmp_path_factory.mktemp("first"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = {known: getattr(vocabmerge, known) for known in vocabmerge.__all__}
    result = doctest.testmod(import_module(name), extraglobs=public)
    assert result.failed == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_public_function_shows_an_example_and_says_what_it_takes_gives_and_refuses(verb):
    text = getattr(vocabmerge, verb).__doc__
    assert ">>>" in text
    assert "Args:" in text


def test_all_public_functions_are_among_them():
    functions = {name for name in vocabmerge.__all__ if name[0].islower()}
    assert functions == set(VERBS)
