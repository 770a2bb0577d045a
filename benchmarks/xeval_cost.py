"""Does `xeval cost` count what a model has, and does its clock add anything to a bare forward pass?

Parameters and operations of four encoder classes against closed formulas (exactly, and within 2 %), and the latency that
`xeval cost` reports against a loop of forward passes written here, in turns. fvcore joins where it is importable; it
counts a multiply-add once, so its figure is doubled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import Recorder, parser
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.utils import logging

from xeval.cost.flops import count_flops
from xeval.cost.measure import cost
from xeval.cost.parameters import split_parameters

H, F, S = 768, 3072, 128


def bert(V: int, L: int, positions: int, types: int, *, pooler: bool) -> tuple[int, int]:
    """Parameters, and operations of one example of S sub-words."""
    layer = 4 * (H * H + H) + (H * F + F) + (F * H + H) + 4 * H
    head = H * H + H if pooler else 0
    parameters = (V + positions + types + 2) * H + L * layer + head
    operations = L * S * 2 * (4 * H * H + 2 * H * F + 2 * S * H) + (2 * H * H if pooler else 0)
    return parameters, operations


def modernbert(V: int, L: int, F: int) -> tuple[int, int]:
    """As `bert`, with gated feed-forward layers, no biases, no positions."""
    parameters = V * H + H + L * (4 * H * H + 3 * H * F + 2 * H) - H + H
    return parameters, L * S * 2 * (4 * H * H + 3 * H * F + 2 * S * H)


MODELS: dict[str, tuple[Any, Any, tuple[int, int]]] = {
    "BERT, 30k pieces, 6 layers": (
        BertModel,
        BertConfig(vocab_size=30_000, num_hidden_layers=6),
        bert(30_000, 6, 512, 2, pooler=True),
    ),
    "DistilBERT": (DistilBertModel, DistilBertConfig(), bert(30_522, 6, 512, 0, pooler=False)),
    "XLM-R base": (
        XLMRobertaModel,
        XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1),
        bert(250_002, 12, 514, 1, pooler=True),
    ),
    "ModernBERT base": (ModernBertModel, ModernBertConfig(), modernbert(50_368, 22, 1152)),
}


def fvcore_count() -> Callable[[Any], float] | None:
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        return None

    def count(model: Any) -> float:
        analysis = FlopCountAnalysis(model, torch.zeros(1, S, dtype=torch.long))
        return 2.0 * float(analysis.unsupported_ops_warnings(False).total())

    return count


def main() -> None:
    arguments = parser(__doc__ or "").parse_args()
    recorder = Recorder("xeval_cost", arguments)
    peer = fvcore_count()
    for name, (kind, config, (parameters, operations)) in MODELS.items():
        if arguments.quick and name == "XLM-R base":
            continue
        model = kind(config).eval()
        recorder.add(
            "parameters",
            {"xeval": [split_parameters(model).total], "formula": [parameters]},
            unit="",
            floor="formula",
            bar={"xeval": 1.0},
            shape={"model": name},
        )
        counted = {"xeval": [float(count_flops(model, length=S))], "formula": [float(operations)]}
        if peer is not None:
            counted["fvcore × 2"] = [peer(model)]
        recorder.add(
            "operations of one example",
            counted,
            unit="FLOP",
            floor="formula",
            bar={"xeval": 1.02},
            shape={"model": name, "S": S},
        )
    _latency(recorder, turns=3 if arguments.quick else 7)
    recorder.close()


def _latency(recorder: Recorder, *, turns: int) -> None:
    kind, config, _ = MODELS["BERT, 30k pieces, 6 layers"]
    with tempfile.TemporaryDirectory() as folder:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        kind(config).save_pretrained(folder)
        times: dict[str, list[float]] = {"xeval": [], "bare loop": []}
        for turn in range(turns):
            runs = [("xeval", _priced), ("bare loop", _bare)]
            for name, run in runs if turn % 2 == 0 else reversed(runs):
                times[name].append(run(Path(folder)))
    recorder.add(
        "median latency of one example",
        times,
        unit="s",
        floor="bare loop",
        bar={"xeval": 1.1},
        shape={"model": "BERT, 30k pieces, 6 layers", "S": S, "batch": 1},
    )


def _priced(folder: Path) -> float:
    return cost(folder, length=S, repeats=15).latency_ms / 1000


def _bare(folder: Path) -> float:
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = torch.randint(30_000, (1, S))
    times = []
    with torch.inference_mode():
        for _ in range(17):
            start = time.perf_counter()
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
            times.append(time.perf_counter() - start)
    return sorted(times[2:])[7]


if __name__ == "__main__":
    main()
