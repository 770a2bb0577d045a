"""What is a student worth: how small, how fast, and how much faster in eight bits?

Random models of BERT-base proportions (a student's time does not depend on what it knows): a teacher of 12 layers with
mBERT's 119,547 pieces; students of 6 and 4 layers with 30,000. Parameters against the closed formula, latency of the
encoder at one sentence of 128 sub-words with one and two threads, and the same encoder in onnxruntime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import Recorder, parser, race
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from bistil import Exported, export

LENGTH = 128
TEACHER, STUDENT = 119_547, 30_000


def main() -> None:
    """Sizes, then speed in torch, then speed in onnxruntime."""
    arguments = parser("bistil: how small and how fast students are").parse_args()
    recorder = Recorder("bistil_student", arguments)
    sizes(recorder)
    repeats = 7 if arguments.quick else 15
    with tempfile.TemporaryDirectory() as name:
        exported = write_graphs(Path(name))
        for threads in (1, 2):
            torch.set_num_threads(threads)
            latency(recorder, threads, repeats)
            runtimes(recorder, exported, threads, repeats)
    recorder.add(
        "largest difference from torch",
        {
            "onnxruntime float32": [exported.float32_difference],
            "onnxruntime int8": [exported.int8_difference],
        },
        unit="",
        bar={"onnxruntime float32": 1e-4},
        shape={"opset": exported.opset, "hidden states of": "six layers"},
    )
    recorder.close()


def sizes(recorder: Recorder) -> None:
    """Parameters of both classes against what their formula says."""
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    below = STUDENT * 768 + 512 * 768 + 2 * 768 + 2 * 768
    formula = {
        "encoder with pooler": below + 6 * layer + 768 * 768 + 768,
        "with masked-LM head": below + 6 * layer + 768 * 768 + 3 * 768 + STUDENT,
    }
    with torch.device("meta"):
        config = BertConfig(vocab_size=STUDENT, num_hidden_layers=6)
        built = {
            "encoder with pooler": BertModel(config),
            "with masked-LM head": BertForMaskedLM(config),
        }
    for name, model in built.items():
        counted = sum(parameter.numel() for parameter in model.parameters())
        recorder.add(
            "parameters that differ from the closed formula",
            {name: [float(abs(counted - formula[name]))]},
            unit="",
            bar={name: 0.0},
            shape={"V": STUDENT, "layers": 6, "parameters": counted},
        )


def encoder(layers: int, pieces: int) -> Any:
    """A random encoder as the judge runs it."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=pieces, num_hidden_layers=layers)
    return BertModel(config, add_pooling_layer=False).eval()


def latency(recorder: Recorder, threads: int, repeats: int) -> None:
    """One sentence through the encoders, in turn."""
    built = {
        "teacher, 12 layers": encoder(12, TEACHER),
        "student, 6 layers": encoder(6, STUDENT),
        "student, 4 layers": encoder(4, STUDENT),
    }
    ids = torch.randint(STUDENT, (1, LENGTH))
    mask = torch.ones_like(ids)

    def passing(model: Any) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return model(input_ids=ids, attention_mask=mask)

        return run

    recorder.add(
        "latency of a sentence in torch",
        race({name: passing(model) for name, model in built.items()}, repeats=repeats, warmup=2),
        unit="s",
        floor="teacher, 12 layers",
        bar={"student, 6 layers": 1 / 1.8, "student, 4 layers": 1 / 2.5},
        shape={"B": 1, "S": LENGTH, "threads": threads},
    )


def write_graphs(folder: Path) -> Exported:
    """The six-layer student as `bistil export` writes it."""
    encoder(6, STUDENT).save_pretrained(folder / "model")
    words = {f"w{number}": number for number in range(STUDENT)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", pad_token="w1"
    ).save_pretrained(folder / "model")
    return export(folder / "model", folder / "out")


def runtimes(recorder: Recorder, exported: Exported, threads: int, repeats: int) -> None:
    """The six-layer student in torch and in onnxruntime, in float32 and in eight bits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {
        graph: onnxruntime.InferenceSession(
            str(Path(exported.folder) / graph), options, providers=["CPUExecutionProvider"]
        )
        for graph in exported.bytes
    }
    model = encoder(6, STUDENT)
    ids = torch.randint(STUDENT, (1, LENGTH))
    fed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}  # fmt: skip
    arrays = {name: fed[name].numpy() for name in exported.inputs}

    def in_torch() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=fed["attention_mask"])

    times = race(
        {
            "torch float32": in_torch,
            "onnxruntime float32": lambda: sessions["onnx/model.onnx"].run(None, arrays),
            "onnxruntime int8": lambda: sessions["onnx/model_quantized.onnx"].run(None, arrays),
        },
        repeats=repeats,
        warmup=2,
    )
    recorder.add(
        "latency of the six-layer student by runtime",
        times,
        unit="s",
        floor="torch float32",
        bar={"onnxruntime int8": 1 / 1.5},
        shape={"B": 1, "S": LENGTH, "threads": threads, "MiB": {name: round(size / 2**20) for name, size in exported.bytes.items()}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
