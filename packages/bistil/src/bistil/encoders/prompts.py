"""What a folder of sentence-transformers puts in front of texts."""

from __future__ import annotations

from vocabmerge import Layout
from vocabmerge.tokenizer_file.json_file import read_json


def default_prompt(layout: Layout) -> str:
    """In front of every text, of a pair in front of the first, unless another prompt is named; "" for nothing.

    Args:
        layout: of a model folder.

    Example:
        >>> from pathlib import Path
        >>> from vocabmerge import Kind
        >>> _ = Path("config_sentence_transformers.json").write_text('{"default_prompt_name": "ask"}')
        >>> default_prompt(Layout(kind=Kind.CLASSIFIER, folder=Path(), prompts={"ask": "ask: "}))
        'ask: '
    """
    if not layout.prompts:
        return ""
    settings = read_json(layout.folder / "config_sentence_transformers.json")
    return str(layout.prompts.get(settings.get("default_prompt_name") or "") or "")
