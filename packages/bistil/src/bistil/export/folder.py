"""The folder of an export, as the Hub lays one out: graphs in `onnx/`, all else as the model's own folder has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bistil.encoders.model_folder import copy_side_files
from bistil.export.readme import write_readme
from vocabmerge import read_layout

if TYPE_CHECKING:
    from bistil.export.graph import Graph

FLOAT, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"


def write_folder(graph: Graph, folder: Path, facts: Mapping[str, Any]) -> None:
    """Put beside the graphs what whoever serves them reads.

    Tokenizer, configurations and the modules of sentence-transformers are the model's own files, byte for byte; the weights of
    its encoder stay behind.

    Args:
        graph: what was exported.
        folder: with the graphs in it.
        facts: of `export.json`: `model` is the folder or Hub name that was read, `folder` the place where the export will lie.
    """
    from transformers import AutoConfig

    graph.tokenizer.save_pretrained(folder)
    source = Path(facts["model"])
    if source.is_dir():
        copy_side_files(source, read_layout(source), folder)
        shutil.copy(source / "config.json", folder)
    else:
        AutoConfig.from_pretrained(str(source)).save_pretrained(folder)
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_readme(folder, Path(facts["folder"]).name, facts)


def name_weights_as_the_hub_does(graph: Path) -> None:
    """Give the weights beside a graph of more than 2 GiB the name by which the Hub's programs fetch them: `….onnx_data`.

    Args:
        graph: the file; nothing is done where `….onnx.data` does not lie beside it.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    written, named = (graph.with_name(graph.name + end) for end in (".data", "_data"))
    if not written.exists():
        return
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = named.name
    onnx.save(model, graph)
    written.rename(named)
    named.chmod(0o644)  # it was made for this user alone
