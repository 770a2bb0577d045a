"""The README of an export: what the graphs take and give, and a program that serves them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bistil.export.programs import program_for


def readme(folder: str, facts: Mapping[str, Any]) -> str:
    """The Markdown; its program runs as it stands, in the folder, with onnxruntime, tokenizers and numpy alone."""
    sizes = ", ".join(f"`{name}` {size / 2**20:,.1f} MiB" for name, size in facts["bytes"].items())
    outputs = " and ".join(
        f"`{name}` [{', '.join(axes)}]" for name, axes in facts["outputs"].items()
    )
    read = [name for name in facts["inputs"] if not name.startswith("word_")]
    places = ""
    if "word_start" in facts["inputs"]:
        places = (
            " `word_start` and `word_size` [sentences, words] say where a word's sub-words begin in all rows, one behind "
            "the other, and how many they are, 0 where a sentence is shorter. Column 0 of the heads is the root."
        )
    return "\n".join(
        [
            f"# {Path(folder).name}",
            "",
            f"`{facts['model']}` as ONNX (opset {facts['opset']}): {sizes}. Both graphs take "
            f"{', '.join(f'`{name}`' for name in read)} [batch, tokens] of any size up to {facts['longest']} tokens, and give "
            f"{outputs}.{places}",
            "",
            f"Largest difference of an output from torch's: {facts['float32_difference']:.2g} in float32, "
            f"{facts['int8_difference']:.2g} in eight bits (weights and, as they come, activations). Eight bits are fast on "
            "CPUs with VNNI instructions.",
            "",
            "```python",
            program_for(facts).rstrip(),
            "```",
            "",
        ]
    )
