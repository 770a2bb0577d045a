"""Memory of a teacher shared out by DeepSpeed ZeRO-3 over two processes, beside the plain teacher; the signals must be equal.

Memory is the peak of resident pages above what the same process holds after its imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from record import Recorder, parser

CHILD = """
import json, os, sys, time
import teacherzoo, transformers, torch
if sys.argv[4]:
    import deepspeed
def resident(which):
    for line in open("/proc/self/status"):
        if line.startswith(which):
            return int(line.split()[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts from here
before = resident("VmRSS")
started = time.monotonic()
teacherzoo.record(sys.argv[1], [teacherzoo.Corpus("en", sys.argv[2])], sys.argv[3], block_length=32, shard_bytes=1000,
                  offload=sys.argv[4] or None)
seconds = time.monotonic() - started
rank = os.environ.get("RANK", "0")
json.dump({"bytes": resident("VmHWM") - before, "seconds": seconds}, open(f"{sys.argv[3]}.{rank}.json", "w"))
"""


def make_teacher(folder: Path, *, width: int, layers: int) -> int:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(f"w{number}" for number in range(20_000)),
    ]
    tokenizer = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=width, num_hidden_layers=layers, num_attention_heads=8,
        intermediate_size=4 * width,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def run(
    teacher: Path, text: Path, out: Path, offload: str, processes: int
) -> list[dict[str, float]]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    script = out.with_suffix(".py")
    script.write_text(CHILD)
    arguments = [str(script), str(teacher), str(text), str(out), offload]
    command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(Path(f"{out}.{rank}.json").read_text()) for rank in range(processes)]


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument(
        "--disk", action="store_true", help="measure offload to a disk, too (needs libaio)"
    )
    arguments = made.parse_args()
    recorder = Recorder("teacherzoo_zero3", arguments)
    width, layers = (512, 12) if arguments.quick else (1024, 24)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make_teacher(folder / "teacher", width=width, layers=layers)
        text = folder / "en.txt"
        text.write_text(
            "\n".join(" ".join(f"w{7 * row + at}" for at in range(20)) for row in range(60))
        )
        plain = run(folder / "teacher", text, folder / "plain", "", 1)
        shared = {
            "plain teacher": plain,
            "ZeRO-3, memory": run(folder / "teacher", text, folder / "cpu", "cpu", 2),
        }
        if arguments.disk:
            disk = str(folder / "disk")
            shared["ZeRO-3, disk"] = run(folder / "teacher", text, folder / "nvme", disk, 2)
        for out in [path for path in (folder / "cpu", folder / "nvme") if path.is_dir()]:
            for path in (folder / "plain").glob("*.parquet"):
                assert path.read_bytes() == (out / path.name).read_bytes(), (
                    f"{out.name}: {path.name} differs"
                )
        print("all signals are equal, byte by byte")
        shape = {"parameters": parameters, "weights_MB": round(parameters * 4 / 1e6)}
        peaks = {
            name: [max(rank["bytes"] for rank in ranks) / 1e6] for name, ranks in shared.items()
        }
        below = {name: 1.0 for name in peaks if name != "plain teacher"}
        recorder.add(
            "peak memory of the largest process",
            peaks,
            unit="MB",
            floor="plain teacher",
            bar=below,
            shape=shape,
        )
        seconds = {name: [max(rank["seconds"] for rank in ranks)] for name, ranks in shared.items()}
        recorder.add("time", seconds, unit="s", floor="plain teacher", shape=shape)
    recorder.close()


if __name__ == "__main__":
    main()
