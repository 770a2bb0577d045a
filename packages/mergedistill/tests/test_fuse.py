"""Models merged in weight space, against means by hand and normal equations by numpy, on folders that transformers saved."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
)
from typer.testing import CliRunner

from mergedistill import FuseError, fuse
from mergedistill.cli.app import app
from mergedistill.fuse import evolve as evolution
from mergedistill.fuse import grams as gathering
from mergedistill.fuse.development import read_examples
from mergedistill.fuse.evolve import search
from mergedistill.fuse.grams import Grams, gather_grams
from mergedistill.fuse.regmean import regression_mean, row_mean
from teacherzoo import CorpusError, load_teacher
from vocabmerge import VocabularyError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(35))]
LABELS = {0: "NOUN", 1: "VERB", 2: "ADJ"}


def tokenizer_of(pieces: list[str]) -> transformers.PreTrainedTokenizerFast:
    backend = Tokenizer(
        tokenizer_models.WordPiece(
            {piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"
        )
    )
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), pieces, strict=False))  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, **roles
    )


def config_of(**changes: Any) -> BertConfig:
    shape: dict[str, Any] = {
        "vocab_size": len(PIECES),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "id2label": LABELS,
        "label2id": {label: number for number, label in LABELS.items()},
    }
    return BertConfig(**(shape | changes))


def saved(
    folder: Path,
    seed: int,
    *,
    model_class: type[Any] = BertForTokenClassification,
    dtype: torch.dtype = torch.float32,
    pieces: list[str] = PIECES,
    shard: str = "50GB",
    **changes: Any,
) -> Path:
    torch.manual_seed(seed)
    model = model_class(config_of(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer_of(pieces).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two taggers `a` and `b`, and beside each a text of its own, `a.txt` and `b.txt`."""
    folder = tmp_path_factory.mktemp("taggers")
    random = np.random.default_rng(0)
    for name, words in (("a", PIECES[5:25]), ("b", PIECES[15:])):
        lines = [" ".join(random.choice(words, size=9)) for _ in range(60)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return [saved(folder / "a", 0), saved(folder / "b", 1)]


def texts_of(folders: list[Path]) -> list[Path]:
    return [folder.with_suffix(".txt") for folder in folders]


def state(folder: Path, model_class: Any = BertForTokenClassification) -> Mapping[str, Any]:
    weights: Mapping[str, Any] = model_class.from_pretrained(folder).state_dict()
    return weights


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_mean_is_torch_s(taggers: list[Path], tmp_path: Path) -> None:
    fused = state(fuse(taggers, tmp_path / "out", weights=[0.25, 0.75]))

    first, second = map(state, taggers)
    for name, tensor in fused.items():
        torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name])


@pytest.mark.parametrize("by", ["mean", "regmean"])
def test_a_model_fused_with_itself_is_that_model(
    taggers: list[Path], tmp_path: Path, by: Any
) -> None:
    twice = [taggers[0], shutil.copytree(taggers[0], tmp_path / "copy")]
    texts = texts_of(taggers) if by == "regmean" else None

    fused = state(fuse(twice, tmp_path / "out", by=by, texts=texts, weights=[0.3, 0.7]))

    for name, tensor in state(taggers[0]).items():
        torch.testing.assert_close(fused[name], tensor, rtol=0, atol=1e-7)


def test_a_weight_of_one_gives_the_bits_of_that_model(taggers: list[Path], tmp_path: Path) -> None:
    fused = state(fuse(taggers, tmp_path / "out", weights=[0, 1]))

    assert all(torch.equal(tensor, fused[name]) for name, tensor in state(taggers[1]).items())


def test_a_run_s_notes_of_the_first_model_are_not_of_the_fused_one(
    taggers: list[Path], tmp_path: Path
) -> None:
    folders = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in taggers]
    notes = ["stage.json", "made_of.json", "run.json", "curves.png", "README.md", "report.json"]
    for note in notes:
        (folders[0] / note).write_text("of the first model")

    out = fuse(folders, tmp_path / "out")

    first = {path.name for path in folders[0].iterdir()} - {*notes}
    assert {path.name for path in out.iterdir()} == {*first, "run.json", "README.md"}


def test_sharded_bfloat16_with_tied_embeddings_stays_so(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model_class": BertForMaskedLM,
        "dtype": torch.bfloat16,
        "shard": "3KB",
    }
    folders = [saved(tmp_path / name, seed, **options) for seed, name in enumerate("ab")]
    assert (folders[0] / "model.safetensors.index.json").is_file()

    out = fuse(folders, tmp_path / "out")

    model = transformers.AutoModelForMaskedLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    first, second = (state(folder, BertForMaskedLM) for folder in folders)
    for name, tensor in model.state_dict().items():
        mean = ((first[name].float() + second[name].float()) / 2).bfloat16()
        torch.testing.assert_close(tensor, mean)
    assert not (out / "model.safetensors.index.json").exists()


def captured_inputs(folder: Path, text: Path, layers: list[str]) -> dict[str, np.ndarray]:
    """What linear layers are given, one line after the other, without padding."""
    model = BertForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows: dict[str, list[Any]] = {name: [] for name in layers}
    for name in layers:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, inputs, name=name: rows[name].append(inputs[0][0].detach().numpy())
        )
    for line in text.read_text(encoding="utf-8").splitlines():
        model(**tokenizer(line, return_tensors="pt"))
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in rows.items()}


def test_regmean_is_the_least_squares_solution_on_the_models_own_inputs(
    taggers: list[Path], tmp_path: Path
) -> None:
    layers = [
        "bert.encoder.layer.0.attention.self.value",
        "bert.encoder.layer.1.intermediate.dense",
        "classifier",
    ]
    texts = texts_of(taggers)

    fused = state(fuse(taggers, tmp_path / "out", by="regmean", texts=texts, alpha=1.0))

    inputs = [captured_inputs(*pair, layers) for pair in zip(taggers, texts, strict=True)]
    weights = [state(folder) for folder in taggers]
    for name in layers:
        stacked, answers = [], []
        for given, own in zip(inputs, weights, strict=True):
            rows = given[name] / np.sqrt(len(given[name]))
            stacked.append(rows)
            answers.append(rows @ own[f"{name}.weight"].double().numpy().T)
        solved, *_ = np.linalg.lstsq(np.concatenate(stacked), np.concatenate(answers), rcond=None)
        np.testing.assert_allclose(fused[f"{name}.weight"].numpy(), solved.T, rtol=0, atol=2e-4)
        mean = (weights[0][f"{name}.weight"] + weights[1][f"{name}.weight"]) / 2
        assert np.abs(solved.T - mean.numpy()).max() > 0.01
    bias = "classifier.bias"
    torch.testing.assert_close(fused[bias], (weights[0][bias] + weights[1][bias]) / 2)


def test_regmean_s_layers_answer_more_nearly_as_the_models_than_the_mean_s(
    taggers: list[Path], tmp_path: Path
) -> None:
    name = "bert.encoder.layer.0.output.dense"
    texts = texts_of(taggers)
    fused = state(fuse(taggers, tmp_path / "out", by="regmean", texts=texts))

    weights = [state(folder)[f"{name}.weight"].numpy() for folder in taggers]
    inputs = [captured_inputs(*pair, [name])[name] for pair in zip(taggers, texts, strict=True)]

    def error(weight: Any) -> float:
        return sum(
            float(((rows @ (weight - own).T) ** 2).mean())
            for rows, own in zip(inputs, weights, strict=True)
        )

    assert error(fused[f"{name}.weight"].numpy()) < error((weights[0] + weights[1]) / 2)


def test_equal_multiples_of_one_gram_matrix_give_the_mean_with_their_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 6, generator=generator)
    weights = [torch.randn(4, 6, generator=generator) for _ in range(2)]
    gram = rows.T @ rows

    solved = regression_mean(weights, [gram, 3 * gram], shares=[0.5, 0.5], alpha=0.9)

    torch.testing.assert_close(
        solved.float(), 0.25 * weights[0] + 0.75 * weights[1], rtol=0, atol=1e-6
    )


def test_an_input_that_is_always_zero_leaves_the_mean() -> None:
    weights = [torch.zeros(2, 3), torch.ones(2, 3)]
    grams = [torch.diag(torch.tensor([1.0, 0.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0, 0.0]))]

    solved = regression_mean(weights, grams, shares=[0.25, 0.75], alpha=1.0)

    torch.testing.assert_close(
        solved.float(), torch.tensor([[0.0, 1.0, 0.75]] * 2), rtol=0, atol=1e-6
    )


def test_rows_of_embeddings_by_counts() -> None:
    tables = [torch.zeros(3, 2), torch.ones(3, 2)]
    counts = [torch.tensor([0.5, 0.3, 0.0]), torch.tensor([0.0, 0.1, 0.0])]

    rows = row_mean(tables, counts, shares=[0.5, 0.5])

    torch.testing.assert_close(rows[:, 0], torch.tensor([0.0, 0.25, 0.5]))


def test_counts_of_pieces_and_shared_inputs_are_those_of_the_text(
    taggers: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("w0 w1 w0\nw2\n", encoding="utf-8")

    gather_grams(taggers[0], taggers[0], text, tmp_path / "grams", tokens=1000)

    grams = Grams.of(tmp_path / "grams")
    shares = grams["bert.embeddings.word_embeddings.weight"]
    expected = torch.zeros(len(PIECES))
    expected[[2, 3, 5, 6, 7]] = torch.tensor([2, 2, 2, 1, 1]) / 8  # no padding among them
    torch.testing.assert_close(shares, expected)
    self_attention = "bert.encoder.layer.1.attention.self"
    assert grams.aliases[f"{self_attention}.key.weight"] == f"{self_attention}.query.weight"


def test_more_passes_under_less_memory_give_the_same_model(
    taggers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of(taggers)
    whole = state(fuse(taggers, tmp_path / "whole", by="regmean", texts=texts))
    monkeypatch.setattr(gathering, "AT_ONCE", 4000)

    parts = state(fuse(taggers, tmp_path / "parts", by="regmean", texts=texts))

    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor)


def test_regmean_killed_between_two_models_does_not_read_the_first_again(
    taggers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of(taggers)
    whole = bytes_of(fuse(taggers, tmp_path / "whole" / "out", by="regmean", texts=texts))
    load = gathering.load_teacher
    opened: list[str] = []

    def dying(folder: Path, **options: Any) -> Any:
        opened.append(folder.name)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return load(folder, **options)

    monkeypatch.setattr(gathering, "load_teacher", dying)
    with pytest.raises(KeyboardInterrupt):
        fuse(taggers, tmp_path / "killed" / "out", by="regmean", texts=texts)
    again = bytes_of(fuse(taggers, tmp_path / "killed" / "out", by="regmean", texts=texts))

    assert again == whole
    assert opened == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("name", "content"), [("b.txt", ""), ("b.csv", "w0 w1"), ("b.txt.gz", "w0")]
)
def test_regmean_refuses_a_text_before_it_opens_a_model(
    taggers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(gathering, "load_teacher", lambda folder, **_options: opened.append(folder))
    text = tmp_path / name
    text.write_text(content)

    with pytest.raises(CorpusError, match=re.escape(str(text))):
        fuse(taggers, tmp_path / "out", by="regmean", texts=[texts_of(taggers)[0], text])

    assert not opened
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("fault", ["text", "weights"])
def test_a_refused_regmean_leaves_nothing_in_the_way_of_the_mended_one(
    taggers: list[Path], tmp_path: Path, fault: str
) -> None:
    bad_text, bad_model = tmp_path / "b.txt", shutil.copytree(taggers[1], tmp_path / "b")
    bad_text.write_bytes(b"\xff\xfe\xff" if fault == "text" else texts_of(taggers)[1].read_bytes())
    if fault == "weights":
        model = BertForTokenClassification.from_pretrained(bad_model)
        model.classifier.bias.data[0] = float("nan")
        model.save_pretrained(bad_model)

    with pytest.raises(ValueError, match=r"b\.txt|is not finite"):
        fuse([taggers[0], bad_model], tmp_path / "out", by="regmean", texts=[texts_of(taggers)[0], bad_text])  # fmt: skip

    assert not list(tmp_path.glob(".out*"))
    fuse(taggers, tmp_path / "out", by="regmean", texts=texts_of(taggers))


@pytest.fixture(scope="module")
def development(taggers: list[Path]) -> Path:
    """Rows that `b` labels without a fault."""
    model = BertForTokenClassification.from_pretrained(taggers[1]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(taggers[1])
    file = taggers[0].parent / "dev.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for line in taggers[1].with_suffix(".txt").read_text(encoding="utf-8").splitlines():
            answers = model(**tokenizer(line, return_tensors="pt")).logits[0, 1:-1].argmax(dim=-1)
            labels = [LABELS[number] for number in answers.tolist()]
            out.write(json.dumps({"words": line.split(), "labels": labels}) + "\n")
    return file


def test_evolution_finds_the_model_that_the_rows_speak_for(
    taggers: list[Path], development: Path, tmp_path: Path
) -> None:
    out = fuse(taggers, tmp_path / "out", by="evolve", dev={"b": development}, trials=12)

    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["best"] == 1.0
    assert record["start"] < 1.0
    assert record["gain"][0] > 0
    assert record["mixture"][0][1] > 0.5
    assert record["judged"] == 12


def test_a_search_killed_after_any_trial_goes_on_to_the_same_bytes(
    taggers: list[Path], development: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = {"by": "evolve", "dev": {"b": development}, "trials": 10, "groups": 2, "seed": 3}
    whole = bytes_of(fuse(taggers, tmp_path / "whole" / "out", **call))  # type: ignore[arg-type]
    judge = evolution.outcome
    judged: list[int] = []

    def dying(*arguments: Any) -> Any:
        judged.append(1)
        if len(judged) == 5:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(evolution, "outcome", dying)
    with pytest.raises(KeyboardInterrupt):
        fuse(taggers, tmp_path / "killed" / "out", **call)  # type: ignore[arg-type]
    trials = json.loads((tmp_path / "killed" / ".out.making" / "trials.json").read_text())
    assert len(trials) == 4
    again = bytes_of(fuse(taggers, tmp_path / "killed" / "out", **call))  # type: ignore[arg-type]

    assert again == whole
    assert (
        len(judged) == 5 + 6 + 2
    )  # the rest of the trials, and start and best on the rows kept back
    assert not (tmp_path / "killed" / ".out.making").exists()


@pytest.mark.parametrize(("rows", "said"), [(12, "12 rows"), (1, "1 row")])
def test_a_development_set_too_small_is_said_and_the_start_kept(
    taggers: list[Path], development: Path, tmp_path: Path, rows: int, said: str
) -> None:
    few = tmp_path / "few.jsonl"
    lines = development.read_text(encoding="utf-8").splitlines()
    few.write_text("\n".join(lines[:rows]), encoding="utf-8")

    done = CliRunner().invoke(
        app,
        ["fuse", *map(str, taggers), "-o", str(tmp_path / "out"), "--by", "evolve", "--dev", f"b={few}", "-q"],
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    assert f"The development set b has {said}, too few to choose on (at least 40)" in done.stderr
    assert done.stdout == f"{tmp_path / 'out'}\n"
    first, second = map(state, taggers)
    name = "classifier.weight"
    torch.testing.assert_close(state(tmp_path / "out")[name], (first[name] + second[name]) / 2)


def several(folder: Path, seed: int) -> Path:
    """A classifier whose labels do not exclude one another."""
    return saved(
        folder,
        seed,
        model_class=BertForSequenceClassification,
        problem_type="multi_label_classification",
    )


def test_several_labels_of_a_text_are_right_where_all_of_them_are(
    taggers: list[Path], tmp_path: Path
) -> None:
    folders = [several(tmp_path / name, seed) for seed, name in enumerate("ab")]
    model = BertForSequenceClassification.from_pretrained(folders[1]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[1])
    file = tmp_path / "dev.jsonl"
    held = []
    with file.open("w", encoding="utf-8") as out:
        for line in taggers[1].with_suffix(".txt").read_text(encoding="utf-8").splitlines():
            shares = model(**tokenizer(line, return_tensors="pt")).logits[0].sigmoid()
            held.append([LABELS[number] for number in range(3) if shares[number] > 0.5])
            out.write(json.dumps({"text": line, "label": held[-1]}) + "\n")
    assert {len(labels) for labels in held} - {1}  # not all texts have one label

    by = fuse(folders, tmp_path / "out", by="evolve", dev={"b": file}, trials=12)

    record = json.loads((by / "run.json").read_text(encoding="utf-8"))
    assert record["best"] == 1.0
    assert record["start"] < 1.0
    assert record["mixture"][0][1] > 0.5


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (["NOUN", "VERB"], "expected one label, for those of the models exclude one another, found 2"),
        (1, "the models know no label 1; they know NOUN, VERB, ADJ"),
        ({"NOUN": 1}, "the models know no label {'NOUN': 1}"),
    ],
)  # fmt: skip
def test_labels_that_the_models_cannot_give_are_refused(
    tmp_path: Path, label: Any, said: str
) -> None:
    folder = saved(tmp_path / "a", 0, model_class=BertForSequenceClassification)
    file = tmp_path / "dev.jsonl"
    file.write_text(json.dumps({"text": "w1 w2", "label": label}))

    with pytest.raises(FuseError, match=re.escape(said)):
        read_examples(load_teacher(folder, headless=True), file)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": 5, "label": "NOUN"}, "dev.jsonl, line 1: 'text' must be text, got int"),
        ({"text": None, "label": "NOUN"}, "'text' must be text, got NoneType"),
        ({"text": "w1", "text_pair": ["w2"], "label": "NOUN"}, "'text_pair' must be text, got list"),
        ({"text": "w\ud83d", "label": "NOUN"}, "'text' has '\\ud83d', half of a character"),
        ({"words": ["w1", 2], "labels": ["NOUN", "VERB"]}, "'words' must be text, got int"),
        ({"words": 7, "labels": ["NOUN"]}, "expected a list of words, found 7"),
        ({"words": "w1 w2", "labels": ["NOUN", "VERB"]}, "expected a list of words, found 'w1 w2'"),
    ],
)  # fmt: skip
def test_rows_whose_text_is_none_are_refused(
    tmp_path: Path, row: dict[str, Any], said: str
) -> None:
    kind = BertForSequenceClassification if "text" in row else BertForTokenClassification
    folder = saved(tmp_path / "a", 0, model_class=kind)
    file = tmp_path / "dev.jsonl"
    file.write_text(json.dumps(row))

    with pytest.raises((FuseError, VocabularyError), match=re.escape(said)):
        read_examples(load_teacher(folder, headless=True), file)


def test_rows_that_do_not_tell_mixtures_apart_keep_the_start(
    taggers: list[Path], development: Path, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.jsonl"
    random = np.random.default_rng(1)
    with noise.open("w", encoding="utf-8") as out:
        for line in development.read_text(encoding="utf-8").splitlines()[:44]:
            words = json.loads(line)["words"][:1]
            out.write(json.dumps({"words": words, "labels": [LABELS[int(random.integers(3))]]}) + "\n")  # fmt: skip

    out = fuse(taggers, tmp_path / "out", by="evolve", dev={"noise": noise}, trials=6)

    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["mixture"] == [[0.5, 0.5]]
    assert "do not tell them apart and the start is kept" in record["verdict"]


def test_rows_end_where_lines_of_json_do_and_long_ones_are_cut_as_transformers_cuts_them(
    taggers: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "dev.jsonl"
    words = [[f"w{number % 35}" for number in range(100)], ["w1", "w2\u2028", "w3\x85"]]
    rows = [{"words": row, "labels": ["NOUN"] * len(row)} for row in words]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(taggers[0])

    long, short = read_examples(load_teacher(taggers[0], headless=True), file)

    expected = [tokenizer(row, is_split_into_words=True, truncation=True) for row in words]
    assert long.input_ids.tolist() == expected[0]["input_ids"]
    assert short.input_ids.tolist() == expected[1]["input_ids"]
    assert (len(long.gold), len(short.gold)) == (62, 3)  # of 64 tokens two are special


def test_masked_lms_evolve_on_plain_text(taggers: list[Path], tmp_path: Path) -> None:
    folders = [
        saved(tmp_path / name, seed, model_class=BertForMaskedLM) for seed, name in enumerate("ab")
    ]

    out = fuse(folders, tmp_path / "out", by="evolve", dev={"a": texts_of(taggers)[0]}, trials=5)

    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["judged"] == 5
    assert -20 < record["best"] < 0


def test_more_groups_than_layers_are_refused(
    taggers: list[Path], development: Path, tmp_path: Path
) -> None:
    depth = BertForTokenClassification.from_pretrained(taggers[0]).config.num_hidden_layers

    with pytest.raises(FuseError, match=rf"groups must be at most {depth + 1}, .*got {depth + 2}"):
        fuse(taggers, tmp_path / "out", by="evolve", dev={"b": development}, groups=depth + 2)

    assert not list(tmp_path.iterdir())
    parts = fuse(
        taggers, tmp_path / "out", by="evolve", dev={"b": development}, groups=depth + 1, trials=5
    )
    assert len(json.loads((parts / "run.json").read_text())["mixture"]) == depth + 1


def test_search_judges_no_mixture_twice_and_no_more_than_it_may() -> None:
    asked: list[Any] = []

    def judged(mixture: Any) -> float:
        asked.append(mixture)
        return -abs(mixture[0][0] - 0.2) - abs(mixture[1][2] - 0.6)

    best, count = search(judged, ((1 / 3,) * 3,) * 2, trials=80, seed=0)

    assert len(asked) == len(set(asked)) == count <= 80
    assert all(abs(sum(group) - 1) < 1e-9 and min(group) >= 0 for mixture in asked for group in mixture)  # fmt: skip
    assert judged(best) > judged(((1 / 3,) * 3,) * 2)


def test_sentence_transformers_folder_opens_as_before_with_its_dense_layer_fused(
    tmp_path: Path,
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    folders = []
    for seed, name in enumerate("ab"):
        encoder = saved(tmp_path / f"{name}-encoder", seed, model_class=transformers.BertModel)
        transformer = Transformer(str(encoder))
        model = sentence_transformers.SentenceTransformer(
            modules=[transformer, Pooling(16), Dense(16, 8), Normalize()],
            device="cpu",
        )
        folders.append(tmp_path / name)
        model.save(str(folders[-1]))

    out = fuse(folders, tmp_path / "out")

    opened = [sentence_transformers.SentenceTransformer(str(folder), device="cpu") for folder in (*folders, out)]  # fmt: skip
    assert "SentenceTransformer(MODEL)" in (out / "README.md").read_text()
    for part in (lambda model: model[2].linear.weight, lambda model: model[0].auto_model.pooler.dense.weight):  # fmt: skip
        first, second, fused = (part(model) for model in opened)
        torch.testing.assert_close(fused, (first + second) / 2)
    assert opened[2].encode(["w0 w1"]).shape == (1, 8)


def test_the_command_writes_a_card_with_models_weights_texts_and_licence(
    taggers: list[Path], tmp_path: Path
) -> None:
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in taggers]
    for folder in folders:
        (folder / "README.md").write_text("---\nlicense: mit\n---\nOne of them\n")
    texts = texts_of(taggers)

    done = CliRunner().invoke(
        app,
        ["fuse", *map(str, folders), "-o", str(tmp_path / "out"), "--by", "regmean", "--weights", "0.4,0.6",
         "--text", f"b={texts[1]}", "--text", f"1={texts[0]}", "--quiet"],
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert "| a | 0.4 | mit | a.txt |" in card
    assert "| b | 0.6 | mit | b.txt |" in card
    assert "One of them" not in card
    assert "A token classifier, made of 2 models" in card
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == LABELS


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            lambda folder: saved(folder, 1, id2label={0: "X", 1: "Y", 2: "Z"}),
            "its labels are ['X', 'Y', 'Z'], not ['NOUN', 'VERB', 'ADJ']",
        ),
        (
            lambda folder: saved(folder, 1, intermediate_size=32),
            "bert.encoder.layer.0.intermediate.dense.bias has the shape [32], not [24]",
        ),
        (
            lambda folder: saved(folder, 1, num_hidden_layers=1),
            "is in the files of one of them alone",
        ),
        (
            lambda folder: saved(folder, 1, num_attention_heads=4),
            "its num_attention_heads is 4, not 2",
        ),
        (
            lambda folder: saved(folder, 1, pieces=[*PIECES[:-2], PIECES[-1], PIECES[-2]]),
            "its tokenizer is another one",
        ),
        (
            lambda folder: saved(folder, 1, dtype=torch.bfloat16),
            "is stored as BF16, not as F32",
        ),
        (
            lambda folder: saved(folder, 1, model_class=BertForMaskedLM),
            "its kind is a masked LM, not a token classifier",
        ),
        (
            lambda folder: saved(folder, 1, problem_type="multi_label_classification"),
            "its labels do not exclude one another, and those of the first exclude one another",
        ),
    ],
    ids=["labels", "shape", "depth", "heads", "tokenizer", "precision", "kind", "several"],
)
def test_models_that_differ_are_refused_by_the_difference(
    taggers: list[Path], tmp_path: Path, other: Callable[[Path], Path], said: str
) -> None:
    with pytest.raises(FuseError) as refusal:
        fuse([taggers[0], other(tmp_path / "other")], tmp_path / "out")

    assert said in str(refusal.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.making").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "0.5,0.6"], "weights must be 2 numbers of at least 0 that sum to 1"),
        (["--weights", "1.5,-0.5"], "weights must be 2 numbers of at least 0 that sum to 1"),
        (["--weights", "half"], "--weights must be numbers such as 0.3,0.7"),
        (["--by", "median"], "by must be mean, regmean or evolve, got 'median' (did you mean 'mean'?)"),
        (["--by", "regmean"], "regmean takes a text of each of the 2 models, got 0"),
        (["--by", "regmean", "--text", "a=x.txt"], "expected a text of this model, got none"),
        (["--by", "regmean", "--text", "c=x.txt"], "expected the name of one model"),
        (["--by", "regmean", "--text", "a=x.txt", "--text", "b=x.txt"], "x.txt: expected a file of text"),
        (["--by", "evolve"], "evolve takes a development set"),
        (["--by", "evolve", "--dev", "x"], "--dev must be NAME=FILE"),
        (["--alpha", "0.5"], "alpha is an option of regmean, and does nothing with mean"),
    ],
)  # fmt: skip
def test_options_without_sense_are_refused_in_one_sentence(
    taggers: list[Path], tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = CliRunner().invoke(
        app, ["fuse", *map(str, taggers), "-o", str(tmp_path / "out"), *arguments]
    )

    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [{"problem_type": "regression"}, {"id2label": {0: "score"}, "label2id": {"score": 0}}],
)
def test_models_that_answer_with_numbers_are_not_judged_by_labels(
    taggers: list[Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    folders = [
        saved(tmp_path / name, seed, model_class=BertForSequenceClassification, **changes)
        for seed, name in enumerate("ab")
    ]

    with pytest.raises(
        FuseError, match="got a sequence classifier or reranker whose answers are numbers; use mean"
    ):
        fuse(folders, tmp_path / "out", by="evolve", dev={"a": texts_of(taggers)[0]})


@pytest.mark.parametrize(
    ("model_class", "said"),
    [
        (BertForQuestionAnswering, "taggers, got a question answerer; use mean or regmean"),
        (BertModel, "taggers, got an encoder without a head; use mean or regmean"),
    ],
)
def test_kinds_that_evolve_cannot_judge_are_named(
    taggers: list[Path], tmp_path: Path, model_class: Any, said: str
) -> None:
    folders = [saved(tmp_path / name, 0, model_class=model_class) for name in "ab"]

    with pytest.raises(FuseError, match=said):
        fuse(folders, tmp_path / "out", by="evolve", dev={"a": texts_of(taggers)[0]})


def test_one_model_and_folders_without_weights_are_refused(
    taggers: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    causal = saved(tmp_path / "causal", 0, model_class=BertLMHeadModel, is_decoder=True)

    with pytest.raises(FuseError, match="at least two models, got 1"):
        fuse(taggers[:1], tmp_path / "out")
    with pytest.raises(FuseError, match="found a causal LM; give the folder of one encoder"):
        fuse([taggers[0], causal], tmp_path / "out")
    with pytest.raises(FuseError, match="found no weights"):
        fuse([taggers[0], tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(FuseError, match="expected the folder of a model, there is none"):
        fuse([taggers[0], tmp_path / "nowhere"], tmp_path / "out")


def test_weights_that_are_not_finite_leave_no_folder(taggers: list[Path], tmp_path: Path) -> None:
    model = BertForTokenClassification.from_pretrained(taggers[1])
    model.classifier.bias.data[0] = float("nan")
    broken = shutil.copytree(taggers[1], tmp_path / "broken")
    model.save_pretrained(broken)

    with pytest.raises(FuseError, match=r"classifier\.bias: a value of one of the models is not finite"):  # fmt: skip
        fuse([taggers[0], broken], tmp_path / "out")

    assert not (tmp_path / "out").exists()
