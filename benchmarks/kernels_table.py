"""The tables of `kdkernels`' README, from the records: what an implementation costs in time and memory, and how exact it is.

    python benchmarks/kernels_table.py           writes them between the README's marks

Of each comparison the newest run on its machine is shown. A figure that was not recorded is not in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latest import Comparison, read

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "kdkernels.jsonl"
README = ROOT / "packages" / "kdkernels" / "README.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"

LABELS = {
    "linear_distil_loss": "`linear_distil_loss`",
    "linear_cross_entropy": "`linear_cross_entropy`, no teacher",
    "sparse eager": "eager, top-k gathered",
    "linear_distil_loss, chunks of 384 MiB": "`linear_distil_loss`, `chunk_bytes` of 384 MiB",
    "three products, aligned": "three products, V padded to a multiple of 64",
    "sparse, torch.compile": "eager, top-k gathered, by torch.compile",
    "dense targets": "eager, dense targets",
    "linear_kl": "`linear_kl`",
    "dense eager": "eager, both distributions",
    "TopKDistillationLoss": "`TopKDistillationLoss`",
    "eager on logits": "the same formula on logits",
}
# In the question of precision, the contender that is this one.
EXACT = {"linear_distil_loss": "linear_distil_loss", "sparse eager": "sparse eager, widened logits"}
GRADIENTS = ("hidden", "weight")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One comparison to show.

    Args:
        title: of the table; it says the machine and what the shape leaves out.
        question: of the records.
        what: likewise.
        machine: a part of its name.
        shape: sizes that the comparison has, among others.
        floor: what the other rows are multiples of, in words.
        labels: of rows, where those of `LABELS` do not fit.
    """

    title: str
    question: str
    what: str
    machine: str
    shape: Mapping[str, object]
    floor: str
    labels: Mapping[str, str] = field(default_factory=dict)


H100, XEON, EPYC = "NVIDIA H100", "Intel(R) Xeon(R)", "AMD EPYC, 2 cores, avx2 avx512f avx512_bf16"
CPU = "Two cores of an Intel Xeon with AVX-512 and AMX"
EPYC_CPU = "Two cores of an AMD EPYC with AVX-512 (`avx512_bf16`)"
TOP_K, WHOLE = "top k, forward and backward", "whole distribution, forward and backward"
TABLES = (
    *(
        Table(
            title=f"NVIDIA H100, bfloat16, forward and backward: N=4,096, H=768, V={V:,}, K=8, {'with' if bias else 'without'} bias",
            question="kdkernels_teacher", what=TOP_K, machine=H100, shape={"V": V, "H": 768, "bias": bias},
            floor="the products",
        )
        for V, bias in ((250_002, True), (250_002, False), (120_000, True), (120_000, False))
    ),
    Table(
        title="NVIDIA H100, bfloat16, beside a compiled rival: N=4,096, H=768, V=120,000, K=8, without bias",
        question="kdkernels_teacher", what="top k, beside torch.compile", machine=H100, shape={"V": 120_000},
        floor="torch.compile",
    ),
    *(
        Table(
            title=f"{CPU}, {dtype}, forward and backward: N=1,024, H=768, V=120,000, K=8",
            question="kdkernels_distil", what="forward and backward", machine=XEON,
            shape={"N": 1_024, "V": 120_000, "dtype": dtype}, floor="the products",
        )
        for dtype in ("bfloat16", "float32")
    ),
    *(
        Table(
            title=f"{EPYC_CPU}, {dtype}, forward and backward: N=1,024, H=768, V=250,002, K=8, with bias",
            question="kdkernels_distil", what="forward and backward", machine=EPYC,
            shape={"N": 1_024, "V": 250_002, "dtype": dtype, "bias": True}, floor="the products",
        )
        for dtype in ("bfloat16", "float32")
    ),
    Table(
        title="NVIDIA H100, bfloat16, a whole distribution: N=4,096, H=768 beside a teacher's 1,024, V=250,002, with biases",
        question="kdkernels_teacher", what=WHOLE, machine=H100, shape={"V": 250_002}, floor="the products",
    ),
    *(
        Table(
            title=f"NVIDIA H100, bfloat16, `{name}`: B=16, S=512, 12 heads of 64",
            question="kdkernels_teacher", what=f"{name}, forward and backward", machine=H100,
            shape={"S": 512, "dtype": "bfloat16"}, floor="eager maps", labels={"tiles": f"`{name}`"},
        )
        for name in ("attention_mse", "relation_kl")
    ),
    *(
        Table(
            title=f"{where}, a step of Trainer: {said}",
            question="kdkernels_trainer", what=f"{kind}, a training step", machine=machine, shape={"dtype": dtype},
            floor="the formula on logits",
        )
        for where, machine, dtype, kind, said in (
            ("NVIDIA H100, bfloat16 autocast", H100, "bf16", "encoder",
             "a masked model of two layers, B=16, S=512, 15 % masked, H=768, V=250,002, K=16"),
            ("NVIDIA H100, bfloat16 autocast", H100, "bf16", "decoder",
             "a causal model of two layers, B=8, S=512, H=1,024, V=128,256, K=16"),
            (f"{CPU}, one thread, float32", XEON, "fp32", "encoder",
             "a masked model of two layers, B=8, S=256, 15 % masked, H=384, V=120,000, K=16"),
            (f"{CPU}, one thread, float32", XEON, "fp32", "decoder",
             "a causal model of two layers, B=2, S=256, H=384, V=32,000, K=16"),
        )
    ),
)  # fmt: skip


def main() -> None:
    """Write the tables into the README."""
    text = README.read_text(encoding="utf-8")
    README.write_text(with_tables(text, read([RECORDS])), encoding="utf-8")


def with_tables(readme: str, comparisons: Sequence[Comparison]) -> str:
    """The README with the tables between its marks.

    Raises:
        ValueError: it has none.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} has no place for the tables: {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{measured(comparisons)}\n{END}{after}"


def measured(comparisons: Sequence[Comparison]) -> str:
    """Markdown: each table that has records."""
    errors = dict(_gradient_errors(comparisons))
    return "\n".join(
        _table(table, run.records, errors if "bfloat16" in table.title else {})
        for table in TABLES
        if (run := _newest(table, comparisons)) is not None
    )


def _newest(table: Table, comparisons: Sequence[Comparison]) -> Comparison | None:
    fitting = [
        run
        for run in comparisons
        if (run.question, run.what, run.quick) == (table.question, table.what, False)
        and table.machine in run.records[0]["machine"]
        and table.shape.items() <= run.shape.items()
    ]
    return fitting[-1] if fitting else None


def _gradient_errors(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, float]]:
    """For each contender the larger of its two gradients' errors in bfloat16, at logits of standard deviation 3."""
    medians: dict[str, list[float]] = {}
    for gradient in GRADIENTS:
        table = Table(
            title="", question="kdkernels_precision", machine="", shape={"std": 3.0}, floor="",
            what=f"relative error of the gradient by {gradient}, bfloat16",
        )  # fmt: skip
        run = _newest(table, comparisons)
        for record in () if run is None else run.records:
            medians.setdefault(record["contender"], []).append(record["median"])
    for name, contender in EXACT.items():
        if len(medians.get(contender, ())) == len(GRADIENTS):
            yield name, max(medians[contender])


def _table(table: Table, records: Sequence[Mapping[str, Any]], errors: Mapping[str, float]) -> str:
    exact = [errors.get(record["contender"]) for record in records]
    shown = any(error is not None for error in exact)
    head = [
        "implementation",
        "time",
        f"of {table.floor}",
        "extra memory",
        *(["gradient error"] if shown else []),
    ]
    lines = [f"{table.title} (commit {records[0]['commit']}):\n", _row(head), _row(["---"] + ["---:"] * (len(head) - 1))]  # fmt: skip
    for record, error in zip(records, exact, strict=True):
        name = record["contender"]
        cells = [
            table.labels.get(name, LABELS.get(name, name)),
            _seconds(record["median"]),
            f"{record['ratio']['median']:.2f}",
            "" if record["memory_bytes"] is None else f"{record['memory_bytes'] / 2**20:,.0f} MiB",
            *([f"{100 * error:.2f} %" if error is not None else ""] if shown else []),
        ]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


if __name__ == "__main__":
    sys.exit(main())
