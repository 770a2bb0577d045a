"""Writes a record of the machine as JSON: `gpu_check_machine.py FILE DISTRIBUTIONS`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    file, *wanted = sys.argv[1:]
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "driver": _driver(),
        "versions": {},
        "missing": [],
        "gpus": [],
    }
    for name in [*wanted, "triton", "pytest", "pytest-xdist", "hypothesis"]:
        try:
            record["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            record["missing"].append(name)
    # A broken library is found now, and by name, not in every part.
    for module in ("torch", "transformers", "accelerate"):
        try:
            __import__(module)
        except Exception as error:  # noqa: BLE001  # whatever it is, the record says it
            record.setdefault("broken", {})[module] = f"{type(error).__name__}: {error}"
    record["gpus"] = _gpus()
    text = json.dumps(record, indent=1)
    Path(file).write_text(text + "\n", encoding="utf-8")
    print(text)


def _gpus() -> list[dict[str, Any]]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    gpus = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        gpus.append(
            {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "bytes": properties.total_memory,
                "multiprocessors": properties.multi_processor_count,
                "cuda": torch.version.cuda,
            }
        )
    return gpus


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,power.limit", "--format=csv,noheader"]  # fmt: skip
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
        return done.stdout.strip() or None
    return None


if __name__ == "__main__":
    main()
