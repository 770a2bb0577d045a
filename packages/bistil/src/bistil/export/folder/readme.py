"""The card of an export: what the graphs take and give, what eight bits cost, and how the folder is served."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bistil.export.folder.served_as import ServedAs
from teacherzoo.catalogue.licence import licence_of
from vocabmerge import Kind
from vocabmerge.hub.card_metadata import card_metadata

if TYPE_CHECKING:
    from bistil.export.graph.graph import Graph

_CARRIED = ("license", "license_name", "license_link", "language", "base_model", "base_model_relation")  # fmt: skip


def card(
    graph: Graph, served: ServedAs, facts: Mapping[str, Any], *, name: str, hub: str | None
) -> str:
    """The card's Markdown under a header that the Hub reads; what it shows runs in the folder as it stands.

    Licence and languages are those of the model's own card; none is made up.

    Args:
        graph: what was exported.
        served: how.
        facts: of `export.json`.
        name: of the export.
        hub: the model's name on the Hub; None for a folder.
    """
    from jinja2 import Environment, StrictUndefined

    engine = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701  # Markdown  # fmt: skip
    template = files("bistil.export.folder").joinpath("README.md.jinja").read_text(encoding="utf-8")
    runtime = "openvino" if facts.get("target") == "openvino" else "onnx"
    return engine.from_string(template).render(
        facts,
        metadata=_metadata(graph.folder, served, hub, runtime),
        name=name,
        served=served,
        example=_example(
            served, facts, pairs=graph.kind is Kind.CLASSIFIER and bool(graph.modules)
        ),
    )


def _metadata(folder: Path, served: ServedAs, hub: str | None, runtime: str) -> str:
    from huggingface_hub import ModelCardData

    carried = _stated(folder)
    if hub:
        known = licence_of(hub)
        carried = ({"license": known.lower()} if known else {}) | carried
        carried |= {"base_model": hub, "base_model_relation": "quantized"}
    return ModelCardData(
        library_name=served.library, pipeline_tag=served.pipeline_tag, tags=[runtime, "bistil"], **carried
    ).to_yaml()  # fmt: skip


def _stated(folder: Path) -> dict[str, Any]:
    """What the model's own card says to the Hub."""
    stated = card_metadata(folder)
    return {key: stated[key] for key in _CARRIED if stated.get(key)}


def _example(served: ServedAs, facts: Mapping[str, Any], *, pairs: bool) -> str:
    doubles = '[("This is one sentence.", "There is a sentence."), ("And this is another.", "This is a number.")]'  # fmt: skip
    singles = '["This is one sentence.", "And this is another."]'
    texts = doubles if pairs or facts.get("task") in ("nli", "paraphrase") else singles
    return served.example.replace("TEXTS", texts).replace("MASK", str(facts["mask"]))
