"""What a model costs: parameters, bytes, operations, time."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xeval.cost.flops import count_flops
from xeval.cost.parameters import Parameters, bytes_on_disk, parameters_behind, parameters_of
from xeval.errors import XevalError
from xeval.progress import ProgressCallback, no_progress
from xeval.statistics.result import COST_COLUMNS, SCHEMA, Result

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The price of one model, under stated conditions.

    Args:
        model: the folder.
        model_digest: of its contents, as it stands in results.
        parameters: and where they are.
        bytes: of the weights on disk.
        flops: operations of the encoder, of a sparse one with its head, of a sentence encoder with its Dense, for one example of
            `length`; a multiply-add is two.
        latency_ms: median time of one forward pass of the encoder over `batch` examples.
        latency_low_ms: 20th percentile.
        latency_high_ms: 80th percentile.
        repeats: passes timed.
        threads: of torch.
        batch: examples per pass.
        length: sub-words per example, special ones included; no padding.
        device: where it ran, with its name.
        dtype: of the weights while running.
        with_head: whether the language-model head ran, too.
        modules: of sentence-transformers that ran behind the encoder, where one of them has weights.
    """

    model: str
    model_digest: str
    parameters: Parameters
    bytes: int
    flops: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    repeats: int
    threads: int
    batch: int
    length: int
    device: str
    dtype: str
    with_head: bool = False
    modules: tuple[str, ...] = ()

    @property
    def throughput(self) -> float:
        """Examples per second at this batch size."""
        return 1000 * self.batch / self.latency_ms

    def columns(self) -> dict[str, Any]:
        """The cost columns of a `Result`."""
        return {
            "parameters": self.parameters.total,
            "embedding_parameters": self.parameters.embeddings,
            "bytes": self.bytes,
            "flops": self.flops,
            "latency_ms": self.latency_ms,
            "throughput": self.throughput,
            "threads": self.threads,
            "batch": self.batch,
            "length": self.length,
            "device": self.device,
            "dtype": self.dtype,
        }


def cost(
    model: str | Path,
    *,
    threads: int | None = None,
    batch: int = 1,
    length: int = 128,
    device: str = "cpu",
    dtype: str = "float32",
    repeats: int = 20,
    with_head: bool | None = None,
    watch: ProgressCallback = no_progress,
) -> Cost:
    """Measure a model folder.

    Parameters are those of the class that the folder names, a tied matrix once. Operations and time are those of the encoder
    alone, without pooler or head, as the judge runs it: heads differ by task and are small beside it, but for the
    language-model head, which no task runs. A sparse encoder (SPLADE) runs that head for every sub-word, and with it is measured;
    a sentence encoder with a Dense or its like runs all modules behind the encoder (in sentence-transformers, which that takes).
    A layer of width H and inner width I takes 8·S·H² + 4·S²·H + 4·S·H·I operations for S sub-words, a multiply-add being two;
    time is the median of single passes.

    Args:
        model: a model folder.
        threads: of torch; its own choice by default.
        batch: examples per pass.
        length: sub-words per example.
        device: "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16".
        repeats: timed passes.
        with_head: whether the language-model head is run, too, and then no module behind it; by default where the folder is
            a sparse encoder's (SPLADE).
        watch: told passes done.

    Raises:
        XevalError: for a folder that is no model, a length beyond the model's limit, or modules with weights behind the encoder
            where sentence-transformers is not installed.

    Example:
        >>> small = cost("small", length=16, repeats=3)  # 2 layers of width 32 and inner width 64
        >>> small.flops == 2 * (8 * 16 * 32**2 + 4 * 16**2 * 32 + 4 * 16 * 32 * 64)
        True
    """
    import torch

    from xeval.encoder import longest_row, model_digest

    if min(batch, length, repeats, threads or 1) < 1:
        raise XevalError(
            f"batch, length, repeats and threads must be at least 1, got {batch}, {length}, {repeats}, {threads}"
        )
    if dtype not in ("float32", "bfloat16", "float16"):
        raise XevalError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    if device not in ("cpu", "cuda"):
        raise XevalError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise XevalError("device 'cuda': torch sees no such device here; use --device cpu")
    folder = Path(model)
    parameters, size = parameters_of(folder), bytes_on_disk(folder)
    opened = open_model(folder, with_head=with_head)
    if length > (limit := longest_row(opened.encoder)):
        raise XevalError(
            f"{folder}: length {length} is beyond the model's limit of {limit}; choose a smaller --length"
        )
    encoder = opened.model.to(device=device, dtype=getattr(torch, dtype)).eval()
    with torch_threads(threads):
        times = _time_passes(encoder, batch=batch, length=length, repeats=repeats, watch=watch)
        used = torch.get_num_threads()
    ordered = sorted(times)
    return Cost(
        model=str(model),
        model_digest=model_digest(str(model)),
        parameters=parameters,
        bytes=size,
        flops=count_flops(encoder, length=length),
        latency_ms=1000 * statistics.median(ordered),
        latency_low_ms=1000 * ordered[round(0.2 * (repeats - 1))],
        latency_high_ms=1000 * ordered[round(0.8 * (repeats - 1))],
        repeats=repeats,
        threads=used,
        batch=batch,
        length=length,
        device=device_name(device),
        dtype=dtype,
        with_head=opened.with_head,
        modules=opened.modules,
    )


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """What of a model folder is run to measure it.

    Args:
        model: called with `input_ids` and `attention_mask` [B, S].
        encoder: of it, without modules behind.
        with_head: as in `Cost`.
        modules: as in `Cost`.
    """

    model: nn.Module
    encoder: nn.Module
    with_head: bool
    modules: tuple[str, ...]


def open_model(folder: Path, *, with_head: bool | None = None) -> OpenedModel:
    """Open what `cost` runs of a model folder, in float32 on the CPU.

    Args:
        folder: of the model.
        with_head: as `cost` takes it.

    Raises:
        XevalError: for a folder that is no model, or modules with weights behind the encoder where sentence-transformers is not installed.
    """
    from xeval.encoder import open_encoder, transformer_folder
    from xeval.sentences.kinds import SPARSE_ENCODER, kind_of, modules_behind
    from xeval.task_templates.masked import open_masked

    has_weights_behind = parameters_behind(folder) > 0
    if with_head is None:
        is_sparse = (folder / "modules.json").is_file() and kind_of(str(folder)) == SPARSE_ENCODER
        with_head = is_sparse and not has_weights_behind
    behind = modules_behind(str(folder)) if has_weights_behind and not with_head else []
    encoder: nn.Module = (
        open_masked(transformer_folder(str(folder)))[0].model
        if with_head
        else open_encoder(str(folder))
    )
    return OpenedModel(
        model=_with_modules(encoder, behind) if behind else encoder,
        encoder=encoder,
        with_head=with_head,
        modules=tuple(type(module).__name__ for module in behind),
    )


def append_cost(path: Path | str, priced: Cost) -> None:
    """Append a cost to a JSON Lines file, from which `read_costs` takes it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"schema": SCHEMA, "model": priced.model, "model_digest": priced.model_digest}
    line = json.dumps({**head, **priced.columns()}, ensure_ascii=False, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_costs(path: Path | str) -> dict[str, dict[str, Any]]:
    """Cost columns by digest of the model; the last line of a model counts.

    Raises:
        XevalError: naming file and line, for what is no cost of this version.
    """
    path = Path(path)
    if not path.is_file():
        raise XevalError(
            f"{path}: no such file of costs; `xeval cost MODEL --out {path}` writes one"
        )
    costs: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            schema, digest = record["schema"], record["model_digest"]
        except (ValueError, TypeError, KeyError) as error:
            raise XevalError(
                f"{path}:{number}: not a line that `xeval cost --out` writes; remove the line"
            ) from error
        if schema != SCHEMA:
            raise XevalError(
                f"{path}:{number}: expected a cost of schema {SCHEMA}, got {schema!r}; measure again"
            )
        if "parameters" not in record:
            raise XevalError(
                f"{path}:{number}: no cost, perhaps a result; --costs takes a file that `xeval cost MODEL --out FILE` wrote"
            )
        costs[digest] = {column: record[column] for column in COST_COLUMNS if column in record}
    return costs


def with_costs(results: Iterable[Result], costs: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """Results with the costs of their models, matched by digest.

    Raises:
        XevalError: when no model of the results has a cost.
    """
    results = list(results)
    if not any(r.model_digest in costs for r in results):
        raise XevalError(
            "no model of the results is among the costs (they are matched by digest); measure the folder "
            "that was tuned, not one that tuning wrote"
        )
    return [replace(r, cost=costs.get(r.model_digest, r.cost)) for r in results]


def _with_modules(encoder: nn.Module, modules: Sequence[nn.Module]) -> nn.Module:
    """The encoder with modules of sentence-transformers behind it, called as the encoder is."""
    from torch import Tensor, nn

    class SentenceEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder: Any = encoder
            self.behind = nn.ModuleList(modules)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
            outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
            )
            features = {
                "input_ids": input_ids, "attention_mask": attention_mask,
                "token_embeddings": outputs[0], "all_layer_embeddings": outputs.hidden_states,
            }  # fmt: skip
            for module in self.behind:
                features = module(features)
            return features

        def get_input_embeddings(self) -> nn.Module:
            embeddings: nn.Module = self.encoder.get_input_embeddings()
            return embeddings

    return SentenceEncoder()


def _time_passes(
    encoder: nn.Module, *, batch: int, length: int, repeats: int, watch: ProgressCallback
) -> list[float]:
    """Seconds of each pass, after two that are not counted."""
    import torch

    owner: Any = encoder
    device = next(encoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(
        owner.get_input_embeddings().num_embeddings, (batch, length), generator=generator
    ).to(device)
    mask = torch.ones_like(ids)
    times = []
    with torch.inference_mode():
        for turn in range(-2, repeats):
            start = time.perf_counter()
            encoder(input_ids=ids, attention_mask=mask)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:
                times.append(time.perf_counter() - start)
                watch(turn + 1, repeats, "timing")
    return times


@contextlib.contextmanager
def torch_threads(wanted: int | None) -> Iterator[None]:
    """Torch computes with so many threads inside; with as many as before where that is None."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: str) -> str:
    """The kind of device, and in brackets its own name."""
    import platform

    import torch

    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"cpu ({name})"
