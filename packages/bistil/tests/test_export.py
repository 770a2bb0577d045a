import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.errors import ExportError
from bistil.export.run import export
from teacherzoo.encoders.families import FAMILIES
from xeval.data.source import LocalFolder
from xeval.evaluate.score import score
from xeval.finetune.checkpoint import read_finetuned
from xeval.finetune.tune import tune
from xeval.protocol import Protocol

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TAGS = {"a": "NOUN", "b": "VERB", "c": "ADJ"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Treebanks and topics in which a word's first letter tells its tag, and a text's first word its topic."""
    root = tmp_path_factory.mktemp("data")
    chance = random.Random(0)
    for split, size in (("train", 80), ("dev", 20), ("test", 30)):
        trees, topics = [], ["index_id\tcategory\ttext"]
        for number in range(size):
            words = [chance.choice("abc") + chance.choice("defgh") for _ in range(5)]
            trees.append(
                "\n".join(
                    f"{i}\t{word}\t_\t{TAGS[word[0]]}\t_\t_\t{i - 1}\t{'root' if i == 1 else 'dep'}\t_\t_"
                    for i, word in enumerate(words, start=1)
                )
            )
            topics.append(f"{number}\t{words[0][0]}\t{' '.join(words)}")
        for file, text in (
            (f"ud/en_made/{split}.conllu", "\n\n".join(trees) + "\n\n"),
            (f"sib200/en/{split}.tsv", "\n".join(topics) + "\n"),
        ):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def tuned(
    teacher: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    top = tmp_path_factory.mktemp("tuned")

    def make(task: str) -> Path:
        if not (top / task).exists():
            tune(
                str(teacher), top / task, task=task, source=LocalFolder(data, top / "cache"), language="en",
                protocol=Protocol(learning_rate=3e-3, batch_size=8, steps=90, evaluate_every=45, max_length=40),
            )  # fmt: skip
        return top / task

    return make


def _answers(folder: Path, graph: str, inputs: dict[str, np.ndarray[Any, Any]]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / graph), providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    return session.run(None, {name: its for name, its in inputs.items() if name in wanted})[0]


@pytest.fixture(scope="module")
def served(
    tuned: Callable[[str], Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tagger, exported and judged; an export takes many seconds, so the quick tests share one."""
    top = tmp_path_factory.mktemp("served")
    export(tuned("pos"), top / "pos", source=LocalFolder(data, top / "cache"), bound=100)
    return top / "pos"


def test_a_graph_gives_for_each_sub_word_what_the_judges_head_gives(
    served: Path, tuned: Callable[[str], Path]
) -> None:
    opened = read_finetuned(tuned("pos")).model
    batch = AutoTokenizer.from_pretrained(served)(
        ["ad be cf", "a", "hh gg ff ee dd cc bb aa . . ."], padding=True, return_tensors="pt"
    )
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    with torch.no_grad():
        expected = opened.head.out(opened.encoder(**batch).last_hidden_state)

    found = torch.from_numpy(_answers(served, "onnx/model.onnx", {k: its.numpy() for k, its in batch.items()}))  # fmt: skip

    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=0)
    about = json.loads((served / "export.json").read_text())
    assert about["outputs"] == {"logits": ["batch", "sequence", "labels"]}
    assert about["labels"] == list(read_finetuned(tuned("pos")).labels)
    assert about["float32_difference"] <= 1e-4
    assert about["opset"] >= 18
    assert about["bytes"]["onnx/model_quantized.onnx"] < about["bytes"]["onnx/model.onnx"]


def test_the_configuration_of_a_tuned_tagger_names_the_head_that_its_graph_has(
    served: Path, tuned: Callable[[str], Path]
) -> None:
    config = AutoConfig.from_pretrained(served)

    assert config.architectures == ["BertForTokenClassification"]
    assert tuple(config.id2label.values()) == read_finetuned(tuned("pos")).labels
    assert AutoConfig.from_pretrained(tuned("pos")).architectures == ["BertModel"]


def test_a_graph_says_nothing_of_the_machine_that_it_was_made_on(served: Path) -> None:
    for graph in ("onnx/model.onnx", "onnx/model_quantized.onnx"):
        content = (served / graph).read_bytes()
        assert b"site-packages" not in content
        for place in (Path.home(), Path(__file__).parents[3], sys.prefix, served.parent):
            assert str(place).encode() not in content
        assert b"pkg.torch" not in content  # the exporter's notes on nodes, values and graph


def test_weights_beyond_what_one_file_holds_lie_beside_the_graphs(
    save_teacher: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 100 kB in place of the 2 GiB of protocol buffers."""
    monkeypatch.setattr(import_module("bistil.export.graph.large_files"), "LARGEST_FILE", 10_000)
    folder = save_teacher(tmp_path / "model", "bert", layers=1, hidden_size=96)
    told: list[str] = []

    exported = export(folder, tmp_path / "out", watch=lambda done, total, what: told.append(what))

    model = AutoModelForMaskedLM.from_pretrained(folder)
    for name, bytes_each in (("onnx/model.onnx", 4), ("onnx/model_quantized.onnx", 1)):
        beside = (tmp_path / "out" / f"{name}_data").stat()
        weights = beside.st_size
        assert beside.st_mode & 0o444 == 0o444  # for whoever serves it
        assert weights > 0.9 * bytes_each * model.num_parameters()
        assert exported.bytes[name] == weights + (tmp_path / "out" / name).stat().st_size
    inputs = {"input_ids": np.array([[2, 7, 9, 3]]), "attention_mask": np.ones((1, 4), dtype=np.int64)}  # fmt: skip
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(its) for name, its in inputs.items()}).logits
    inputs["token_type_ids"] = np.zeros((1, 4), dtype=np.int64)
    found = torch.from_numpy(_answers(tmp_path / "out", "onnx/model.onnx", inputs))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    read = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    table = model.get_input_embeddings().weight.detach().numpy()
    assert any(np.array_equal(onnx.numpy_helper.to_array(weight), table) for weight in read.graph.initializer)  # fmt: skip
    onnx.checker.check_model(tmp_path / "out" / "onnx" / "model.onnx")
    assert {file.name for file in (tmp_path / "out" / "onnx").iterdir()} == {
        "model.onnx", "model.onnx_data", "model_quantized.onnx", "model_quantized.onnx_data"
    }  # fmt: skip
    listed = json.loads((tmp_path / "out" / "config.json").read_text())["transformers.js_config"]
    assert listed["use_external_data_format"] == {"model.onnx": 1, "model_quantized.onnx": 1}
    assert told[0] == "opening the model"
    assert told[-1] == "exported"


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", {family: name for name, family in FAMILIES.items() if not family.unreached}.values()
)
def test_a_graph_answers_as_torch_does_on_text_of_any_size(
    save_teacher: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    folder = save_teacher(tmp_path / "model", family, layers=2)

    exported = export(folder, tmp_path / "out")

    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(["abc def mnop", "a", "hh gg ff ee dd cc bb aa . ." * 3], padding=True, return_tensors="pt")  # fmt: skip
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        expected = model(**{name: batch[name] for name in names}).logits
    found = _answers(
        tmp_path / "out",
        "onnx/model.onnx",
        {"token_type_ids": np.zeros_like(batch["input_ids"]), **{name: batch[name].numpy() for name in names}},
    )  # fmt: skip
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(torch.from_numpy(found)[real], expected[real], atol=1e-4, rtol=0)
    assert exported.float32_difference <= 1e-4
    assert 0 < exported.int8_difference < 3
    assert exported.opset >= 18
    assert exported.outputs == {"logits": ("batch", "sequence", "vocabulary")}
    assert exported.bytes["onnx/model_quantized.onnx"] < exported.bytes["onnx/model.onnx"]


@pytest.mark.slow
def test_a_stock_classifier_keeps_its_labels(teacher: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        teacher, num_labels=3, id2label={0: "x", 1: "y", 2: "z"}
    )
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "model")

    exported = export(tmp_path / "model", tmp_path / "out")

    assert exported.labels == ("x", "y", "z")
    assert exported.outputs == {"logits": ("batch", "labels")}


def test_eight_bits_are_judged_beside_torch(
    served: Path, tuned: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    (drop,) = json.loads((served / "export.json").read_text())["drops"]

    (judged,) = score(tuned("pos"), tmp_path / "results.jsonl", source=LocalFolder(data, tmp_path / "cache"))  # fmt: skip
    assert drop["float32"] == judged.value
    assert drop["float32"] > 70
    assert drop["points"] == drop["float32"] - drop["quantized"]
    assert abs(drop["points"]) < 10
    assert drop["low"] <= drop["points"] <= drop["high"]
    assert drop["n"] == judged.n


def test_the_program_in_the_readme_serves_words_without_torch(served: Path) -> None:
    program = (served / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = program.replace("This is one sentence.", "ad be cf").replace("And this is another.", "bh")  # fmt: skip

    done = subprocess.run([sys.executable, "-c", "import sys; sys.modules['torch'] = None\n" + program], cwd=served, capture_output=True, text=True)  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["ad", "be", "cf", "bh"]
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["NOUN", "VERB", "ADJ", "VERB"]  # fmt: skip


@pytest.mark.slow
def test_the_command_exports_a_text_classifier_and_states_the_drop(
    tuned: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XEVAL_CACHE", str(tmp_path / "cache"))

    done = CliRunner().invoke(app, ["export", str(tuned("topic")), "-o", str(tmp_path / "out"), "--data", str(data), "--bound", "20", "--json"])  # fmt: skip

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["outputs"] == {"logits": ["batch", "labels"]}
    assert told["drops"][0]["measure"] == "accuracy"
    assert told["drops"][0]["n"] == 30


@pytest.mark.slow
def test_an_export_that_differs_is_refused_and_leaves_nothing(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("bistil.export.graph.compare"), "TOLERANCE", 1e-12)

    with pytest.raises(ExportError, match="differs from torch by"):
        export(teacher, tmp_path / "out")

    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_named(
    teacher: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ExportError, match="taken exists already"):
        export(teacher, tmp_path / "taken")

    from transformers import BertConfig, BertForMultipleChoice

    shape = {"vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}  # fmt: skip
    BertForMultipleChoice(BertConfig(**shape)).save_pretrained(tmp_path / "choice")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "choice")
    with pytest.raises(ExportError, match="it is a model of multiple choice"):
        export(tmp_path / "choice", tmp_path / "out")

    unpadded = shutil.copytree(teacher, tmp_path / "unpadded")
    stated = json.loads((unpadded / "tokenizer_config.json").read_text())
    del stated["pad_token"]
    (unpadded / "tokenizer_config.json").write_text(json.dumps(stated))
    with pytest.raises(
        ExportError, match="names no padding token, and texts are judged in batches"
    ):
        export(unpadded, tmp_path / "out", texts={"en": texts["en"]})

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"onnxruntime, which is not installed; pip install 'bistil\[export\]'"):  # fmt: skip
        export(teacher, tmp_path / "out")
