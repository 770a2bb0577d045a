"""Models of every kind, opened as what they were saved as; nothing that their files lack is made up."""

from __future__ import annotations

import contextlib
import inspect
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teacherzoo.encoders.families import FAMILIES
from teacherzoo.errors import TeacherError
from vocabmerge import Kind, Layout, read_layout
from vocabmerge.model_files import has_weights, stored_tensors
from vocabmerge.open_models import quiet_transformers

if TYPE_CHECKING:
    import torch

_AUTO_CLASSES = {
    Kind.MASKED_LM: "AutoModelForMaskedLM",
    Kind.SPARSE: "AutoModelForMaskedLM",
    Kind.HEADLESS: "AutoModel",
    Kind.SENTENCE: "AutoModel",
    Kind.MULTI_VECTOR: "AutoModel",
    Kind.CLASSIFIER: "AutoModelForSequenceClassification",
    Kind.TOKEN_CLASSIFIER: "AutoModelForTokenClassification",
    Kind.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
}

PLAIN_NAMES = {
    Kind.MASKED_LM: "a masked LM",
    Kind.CAUSAL_LM: "a causal LM",
    Kind.SPARSE: "a sparse encoder",
    Kind.HEADLESS: "an encoder without a head",
    Kind.SENTENCE: "a sentence encoder",
    Kind.MULTI_VECTOR: "a multi-vector encoder",
    Kind.CLASSIFIER: "a sequence classifier or reranker",
    Kind.TOKEN_CLASSIFIER: "a token classifier",
    Kind.QUESTION_ANSWERING: "a question answerer",
    Kind.MULTIPLE_CHOICE: "a model of multiple choice",
    Kind.TOKENIZER: "a tokenizer without a model",
}
"""Kind of a folder to what a sentence calls it."""


def model_layout(folder: Path) -> Layout:
    """What lies in a model folder; where its configuration names no class, a masked LM if the files hold such a head.

    Raises:
        VocabularyError: for a part that is not understood.
    """
    layout = read_layout(folder)
    if layout.kind is Kind.HEADLESS and layout.architecture == "AutoModel":
        steps = {step for family in FAMILIES.values() for head in family.heads for step in head.transform}  # fmt: skip
        if any(name.startswith(tuple(steps)) for name in _stored_names(folder)):
            return replace(layout, kind=Kind.MASKED_LM)
    return layout


def allows_several(problem_type: str | None) -> bool:
    """Whether several labels may hold of a text, by the `problem_type` of a configuration of transformers."""
    return problem_type == "multi_label_classification"


def encoder_folder(layout: Layout) -> Path:
    """Where configuration and weights of the one encoder of a model folder lie.

    Raises:
        TeacherError: where there is none, or where there are several, as behind a router.
    """
    if layout.kind not in _AUTO_CLASSES:
        raise TeacherError(
            f"{layout.folder}: expected an encoder, alone or with a head for masked words, sequences, tokens or questions, found "
            f"{PLAIN_NAMES[layout.kind]}; give the folder of such a model, with config.json and weights."
        )
    if len(layout.transformers) != 1:
        raise TeacherError(
            f"{layout.folder}: expected one encoder, found {len(layout.transformers)} "
            f"({', '.join(map(str, layout.transformers))}); give the folder of one of them."
        )
    return layout.folder / layout.transformers[0]


def transformer_folder(folder: Path) -> Path:
    """Where configuration, weights and tokenizer of a model folder lie: there, or where older sentence-transformers put them.

    Raises:
        VocabularyError: for modules that are not understood.
    """
    if (folder / "config.json").is_file() or not (folder / "modules.json").is_file():
        return folder
    places = read_layout(folder).transformers
    return folder / places[0] if len(places) == 1 else folder


def shell_of(layout: Layout) -> torch.nn.Module:
    """The model as its class builds it, on the meta device: its shape without a weight.

    Raises:
        TeacherError: where the configuration cannot be read, or transformers has no such model of this kind.
    """
    import torch

    model_class, config, options = _parts(layout)
    with torch.device("meta"), _refusing(layout, "config.json"):
        shell: torch.nn.Module = model_class.from_config(config, **options)
    return shell


def open_whole(layout: Layout) -> Any:
    """The model in float32, in evaluation mode, every weight of it from its files; a pooler only where they have one.

    Raises:
        TeacherError: where weights cannot be read or are missing.
    """
    import torch

    model_class, _, options = _parts(layout)
    with _refusing(layout, "the weights"):
        model, info = model_class.from_pretrained(
            encoder_folder(layout),
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise TeacherError(
            f"{layout.folder}: {len(missing)} weights are not in its files, among them {missing[0]!r}, and would be random; "
            "save the whole model again."
        )
    return model.eval()


def same_class(model: Any, config: Any) -> Any:
    """A model of `model`'s class with fresh weights by another configuration; without a pooler where `model` has none.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> same_class(BertModel(config, add_pooling_layer=False), config).pooler is None
        True
    """
    bare = model.base_model is model and getattr(model, "pooler", model) is None
    return type(model)(config, **({"add_pooling_layer": False} if bare else {}))


def _parts(layout: Layout) -> tuple[Any, Any, dict[str, Any]]:
    """The auto class, the configuration, and the options that the model's class is built with."""
    import transformers

    folder = encoder_folder(layout)
    with _refusing(layout, "config.json"):
        # Said aloud: otherwise transformers asks whether to run the code that comes with a model, and runs it.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    auto_class: Any = getattr(transformers, _AUTO_CLASSES[layout.kind])
    model_class = auto_class._model_mapping.get(type(config), None)
    if model_class is None:
        raise TeacherError(
            f"{layout.folder}: transformers has no {config.model_type!r} model that is {PLAIN_NAMES[layout.kind]}; "
            "choose another encoder."
        )
    if isinstance(model_class, list | tuple):
        model_class = model_class[0]
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    headless = auto_class is transformers.AutoModel
    with _refusing(layout, "the weights"):
        without = headless and takes_pooler and not any("pooler." in name for name in _stored_names(folder))  # fmt: skip
    return auto_class, config, {"add_pooling_layer": False} if without else {}


def _stored_names(folder: Path) -> Iterator[str]:
    """Of the tensors in the weight files of a folder."""
    from safetensors import safe_open

    files = [*folder.glob("*.safetensors")]
    for file in files:
        with safe_open(file, framework="numpy") as opened:
            yield from opened.keys()
    if not files and has_weights(folder):
        yield from (name for name, _ in stored_tensors(folder))


def in_one_line(error: BaseException) -> str:
    """What a library says, its first line without a mark at its end; all of what it says of a field of a configuration, which has two."""
    from huggingface_hub.errors import StrictDataclassError

    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = (
        " ".join(" ".join(lines).split()) if isinstance(error, StrictDataclassError) else lines[0]
    )
    return said.strip().rstrip(".:")


@contextlib.contextmanager
def _refusing(layout: Layout, part: str) -> Iterator[None]:
    """What cannot be read is refused in one sentence, and what transformers reports of weights left aside is not printed."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            yield
    except pickle.UnpicklingError as error:
        raise TeacherError(
            f"{layout.folder}: {part} hold more than tensors, and such a file is not unpickled; get them as .safetensors."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError) as error:  # fmt: skip
        raise TeacherError(
            f"{layout.folder}: {part} cannot be read: {in_one_line(error)}; fetch or save the model again."
        ) from error
