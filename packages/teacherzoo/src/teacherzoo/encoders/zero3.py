"""Teachers larger than memory: DeepSpeed ZeRO-3 keeps a share of every weight in each process, or on disk.

A weight is gathered where it is used and let go behind it. Gathering is collective, so every process must make the same steps:
one that has recorded all its shards keeps stepping along on a dummy input until the others are done, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from teacherzoo.encoders.heads import SplitHead
from teacherzoo.encoders.inference import Precision
from teacherzoo.encoders.teachers import (
    Teacher,
    assemble_teacher,
    read_config,
    read_tokenizer,
    teacher_folder,
)
from teacherzoo.errors import RecordError, TeacherError
from teacherzoo.processes import join_processes, rank, tell_of_locks

_M_MMAP_THRESHOLD = -3  # malloc.h


def load_sharded_teacher(
    name: str | Path, *, offload: str | Path, precision: Precision = "float32"
) -> tuple[Teacher, ShardedEngine]:
    """Open a teacher whose weights no process holds whole, not even while they are read.

    Args:
        name: see `load_teacher`.
        offload: `"cpu"` for memory, or a folder for its disk.
        precision: of the encoder.

    Raises:
        RecordError: where DeepSpeed, or for the disk libaio, is missing.
        TeacherError: see `load_teacher`.
    """
    deepspeed = _import_deepspeed(needs_disk=str(offload) != "cpu")
    folder = teacher_folder(name)
    config = read_config(folder, name)
    tokenizer = read_tokenizer(folder, name)
    _give_freed_memory_back()
    join_processes()
    tell_of_locks()
    deepspeed.init_distributed(dist_init_required=False, auto_mpi_discovery=False, verbose=False)
    settings = _settings(offload, config)
    from transformers import AutoModelForMaskedLM
    from transformers.integrations import HfDeepSpeedConfig

    zero_is_on = HfDeepSpeedConfig(settings)  # while it lives, transformers builds models in shares
    model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    _read_weights(deepspeed, model, folder, name)
    teacher = assemble_teacher(name, folder, config=config, tokenizer=tokenizer, model=model)
    rows = _MaskedRows(model, teacher.masked_lm, autocast=precision == "bfloat16")
    engine = deepspeed.initialize(model=rows, config=settings)[0]
    engine.module.eval()
    del zero_is_on
    return teacher, ShardedEngine(deepspeed, engine, teacher.masked_lm, teacher.space.mask)


class ShardedEngine:
    """Runs a sharded teacher; see `inference.Engine`. Each use is a step that all processes make together."""

    def __init__(self, deepspeed: Any, engine: Any, head: SplitHead, token: int) -> None:
        self._deepspeed = deepspeed
        self._engine = engine
        self._head = head
        self._token = token

    def hidden_rows(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        """See `Engine`."""
        self._anyone_working(True)
        return self._forward(input_ids, attention_mask, cells)

    def decoder(self) -> AbstractContextManager[tuple[torch.Tensor, torch.Tensor | None]]:
        """See `Engine`."""
        return self._gathered()

    def finish(self) -> None:
        """Step along until no process has anything left to predict."""
        dummy = torch.full((1, 8), self._token)
        while self._anyone_working(False):
            with torch.no_grad():
                self._forward(dummy, torch.ones_like(dummy), torch.zeros(1, dtype=torch.int64))
            with self._gathered():
                pass

    def _forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self._engine(*(tensor.to(self._engine.device) for tensor in inputs))
        return hidden

    @contextlib.contextmanager
    def _gathered(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        weight, bias = self._head.weight, self._head.bias
        parameters = [tensor for tensor in (weight, bias) if tensor is not None]
        with self._deepspeed.zero.GatheredParameters(parameters):
            yield weight, bias

    def _anyone_working(self, here: bool) -> bool:
        flag = torch.tensor([int(here)], device=self._engine.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


class _MaskedRows(torch.nn.Module):
    """Encoder, masked rows, transform: what runs inside DeepSpeed's hooks."""

    def __init__(self, model: torch.nn.Module, head: SplitHead, *, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self._parts = [head]  # in a list, or the encoder would be registered twice
        self._autocast = autocast

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        head = self._parts[0]
        with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=self._autocast):
            output = head.encoder(input_ids=input_ids, attention_mask=attention_mask)
            return head.transform(output.last_hidden_state.flatten(0, 1)[cells]).float()


def _give_freed_memory_back() -> None:
    """Have glibc map each weight by itself: on the heap, the holes between shares are what a gathered weight never fits into."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 1 << 18)


def _read_weights(deepspeed: Any, model: Any, folder: Path, name: str | Path) -> None:
    """Fill the shares one weight at a time; the first process reads, the others receive."""
    from safetensors import safe_open

    files = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            files.update(dict.fromkeys(opened.keys(), file))
    tied = _same_tensors(model)
    for parameter_name, parameter in model.named_parameters():
        source = next((alias for alias in tied[parameter_name] if alias in files), None)
        if source is None:
            raise TeacherError(
                f"{name}: the weight {parameter_name!r} is not in its files; load the model and save it again "
                "with transformers, whose names these must be."
            )
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if rank() == 0:
                with safe_open(files[source], framework="pt") as opened:
                    parameter.data.copy_(opened.get_tensor(source))


def _same_tensors(model: Any) -> dict[str, list[str]]:
    """For each parameter all the names it has."""
    names: dict[int, list[str]] = {}
    for alias, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(alias)
    return {alias: names[id(parameter)] for alias, parameter in model.named_parameters()}


def _settings(offload: str | Path, config: Any) -> dict[str, Any]:
    if str(offload) == "cpu":
        where: dict[str, Any] = {"device": "cpu"}
    else:
        folder = Path(offload)
        folder.mkdir(parents=True, exist_ok=True)
        # One buffer must hold the largest weight.
        where = {
            "device": "nvme",
            "nvme_path": str(folder),
            "buffer_count": 4,
            "buffer_size": _largest_weight(config) + 4096,
        }
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {
            "stage": 3,
            "offload_param": where,
            # Let go of everything at once: memory is what this is for.
            "stage3_max_live_parameters": 1,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
        },
    }


def _largest_weight(config: Any) -> int:
    from transformers import AutoModelForMaskedLM

    with torch.device("meta"):
        shape_only = AutoModelForMaskedLM.from_config(config)
    return max(parameter.numel() for parameter in shape_only.parameters())


def _import_deepspeed(*, needs_disk: bool) -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise RecordError(
            "offload needs DeepSpeed, which is not installed; pip install 'teacherzoo[deepspeed]'."
        ) from error
    if needs_disk and not _disk_is_usable():
        raise RecordError(
            "offload to a disk needs libaio and a C++ compiler, and DeepSpeed finds none; install the system's libaio "
            "(Debian: libaio-dev), or use offload='cpu'."
        )
    return deepspeed


def _disk_is_usable() -> bool:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return bool(AsyncIOBuilder().is_compatible(verbose=False))
