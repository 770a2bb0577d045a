"""The folder of an export, as the Hub lays one out: graphs in `onnx/`, all else as the model's own folder has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bistil.encoders.model_folder import copy_side_files
from bistil.export.folder.program import program
from bistil.export.folder.readme import card
from bistil.export.folder.served_as import served_as
from teacherzoo.catalogue.catalogue import find_teacher
from vocabmerge import read_layout

if TYPE_CHECKING:
    from bistil.export.graph.graph import Graph

FLOAT, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"
_PROBE = "Ça va?  I'm 3.5 km away, NOT here: Ёж, 日本語,\tİstanbul \u0301\u200b."
_UNLIMITED = 1_000_000


def write_folder(
    graph: Graph, folder: Path, facts: Mapping[str, Any], *, session: str = "onnx_session"
) -> None:
    """Put beside the graphs what whoever serves them reads: configuration, tokenizer, modules, program and card.

    Files are the model's own, byte for byte, and the weights of its encoder stay behind. Three are set right where other
    libraries would misread them: a `tokenizer.json` that segments otherwise than the tokenizer which torch was asked with is
    written anew; a `tokenizer_config.json` names the longest row, and its class and further special tokens by the names that
    every version of transformers knows; and the `config.json` of a tuned tagger or classifier names the head and the labels
    that its graph has, and transformers.js is told there of weights that lie beside a graph.

    Args:
        graph: what was exported.
        folder: with the graphs in it.
        facts: of the run, for `export.json`: `folder` is where the export will lie, `model` the folder or Hub name that was
            read, of both of which names are written and no paths; what else they say stands as it is.
        session: the file of `programs/` that opens the graph.
    """
    layout = read_layout(graph.folder)
    copy_side_files(graph.folder, layout, folder)
    _write_config(graph, graph.folder / layout.transformers[0] / "config.json", folder)
    _write_tokenizer(graph, folder)
    hub = None if Path(facts["model"]).exists() else find_teacher(str(facts["model"]))
    name = Path(facts["folder"]).name
    everything = {
        **_described(graph),
        **facts,
        "folder": name,
        "model": hub or graph.folder.resolve().name,
    }
    (folder / "export.json").write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")  # fmt: skip
    served = served_as(graph)
    (folder / "serve.py").write_text(program(served.program, session=session), encoding="utf-8")
    (folder / "README.md").write_text(
        card(graph, served, everything, name=name, hub=hub), encoding="utf-8"
    )


def _described(graph: Graph) -> dict[str, Any]:
    """What a program must know of a graph."""
    tokenizer = graph.tokenizer
    return {
        "kind": served_as(graph).words,
        "inputs": list(graph.inputs),
        "outputs": {name: list(axes) for name, axes in graph.outputs.items()},
        "labels": list(graph.labels),
        "several_labels": graph.several_labels,
        "regression": graph.regression,
        "longest": graph.longest,
        "pad": tokenizer.pad_token_id or 0,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "mask": tokenizer.mask_token,
        "unknown": tokenizer.unk_token_id,
        "prompts": dict(graph.prompts),
        "default_prompt": graph.default_prompt,
        "leaves_prompt_out": graph.leaves_prompt_out,
        "similarity": graph.similarity,
        "dimension": _dimension(graph),
        **graph.about,
    }


def _dimension(graph: Graph) -> int | None:
    """Numbers of a vector; None for models that give none."""
    import torch

    from bistil.export.graph.sample_rows import sample_rows

    if "sentence_embedding" not in graph.outputs:
        return None
    with torch.no_grad():
        outputs = dict(zip(graph.outputs, graph.module(*sample_rows(graph, [3])), strict=True))
    return int(outputs["sentence_embedding"].shape[-1])


def _write_config(graph: Graph, source: Path, folder: Path) -> None:
    stated = json.loads(source.read_text(encoding="utf-8"))
    amended = stated | _tuned_head(graph, source.parent)
    beside = [file.name.removesuffix("_data") for file in (folder / FLOAT).parent.glob("*.onnx_data")]  # fmt: skip
    if beside:
        amended["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(sorted(beside), 1)}  # fmt: skip
    if amended == stated:
        shutil.copy(source, folder)
    else:
        (folder / source.name).write_text(json.dumps(amended, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")  # fmt: skip


def _tuned_head(graph: Graph, source: Path) -> dict[str, Any]:
    """What a configuration of transformers says of a head that xeval tuned, where transformers has such heads."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    task = {"tagger": "TokenClassification", "classifier": "SequenceClassification"}.get(served_as(graph).program)  # fmt: skip
    if graph.kind is not None or task is None:
        return {}
    classes = getattr(modeling_auto, f"AutoModelFor{task}")._model_mapping
    known = classes.get(type(AutoConfig.from_pretrained(source, trust_remote_code=False)), None)
    numbered = list(enumerate(graph.labels))
    return {
        "architectures": [known.__name__] if known else [],
        "id2label": {str(number): label for number, label in numbered},
        "label2id": {label: number for number, label in numbered},
    }


def _write_tokenizer(graph: Graph, folder: Path) -> None:
    from tokenizers import Tokenizer

    file, asked = folder / "tokenizer.json", graph.tokenizer
    if not file.is_file():
        asked.save_pretrained(folder)
    elif (
        Tokenizer.from_file(str(file)).encode(_PROBE).ids
        != asked.backend_tokenizer.encode(_PROBE).ids
    ):
        asked.backend_tokenizer.save(str(file))
    _amend(folder / "tokenizer_config.json", graph)


def _amend(file: Path, graph: Graph) -> None:
    """Name the limit, and what transformers 5 renamed as older versions call it, which version 5 knows as well."""
    stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    amended = dict(stated)
    if not 0 < (stated.get("model_max_length") or 0) <= _UNLIMITED:
        amended["model_max_length"] = graph.longest
    if stated.get("tokenizer_class") == "TokenizersBackend":
        amended["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(stated.get("extra_special_tokens"), list):
        amended["additional_special_tokens"] = amended.pop("extra_special_tokens")
    if amended != stated:
        file.write_text(json.dumps(amended, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
