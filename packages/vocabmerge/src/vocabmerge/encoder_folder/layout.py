"""Tells which kind of encoder lies in a folder, and where its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, Literal

from vocabmerge.config_ids import ids_named, token_ids
from vocabmerge.encoder_folder.sentence_modules import (
    MODULE_IDS,
    MODULES_FILE,
    TABLES,
    TRANSFORMERS,
    Module,
    module_config,
    read_modules,
)
from vocabmerge.errors import VocabularyError
from vocabmerge.model_files import WEIGHTS, has_weights, read_model_config
from vocabmerge.tokenizer_file.json_file import read_json
from vocabmerge.tokenizer_file.reading import read_vocabulary

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
SENTENCE_CONFIG = "config_sentence_transformers.json"
_OF_CROSS_ENCODERS = ("sentence_transformers", "sbert_ce_default_activation_function")


class Kind(StrEnum):
    """What a model folder gives out."""

    MASKED_LM = auto()
    CAUSAL_LM = auto()
    HEADLESS = auto()
    SENTENCE = auto()
    MULTI_VECTOR = auto()
    SPARSE = auto()
    CLASSIFIER = auto()
    TOKEN_CLASSIFIER = auto()
    QUESTION_ANSWERING = auto()
    MULTIPLE_CHOICE = auto()
    TOKENIZER = auto()


_KIND_OF_HEAD = {
    "ElectraForPreTraining": Kind.HEADLESS,  # says which tokens were replaced; no row per piece
    "ForMaskedLM": Kind.MASKED_LM,
    "ForPreTraining": Kind.MASKED_LM,
    "WithLMHeadModel": Kind.MASKED_LM,
    "LMHeadModel": Kind.CAUSAL_LM,
    "ForCausalLM": Kind.CAUSAL_LM,
    "ForSequenceClassification": Kind.CLASSIFIER,
    "ForNextSentencePrediction": Kind.CLASSIFIER,
    "ForMultipleChoice": Kind.MULTIPLE_CHOICE,
    "ForTokenClassification": Kind.TOKEN_CLASSIFIER,
    "ForQuestionAnswering": Kind.QUESTION_ANSWERING,
    "ForQuestionAnsweringSimple": Kind.QUESTION_ANSWERING,
    "Model": Kind.HEADLESS,
    "Encoder": Kind.HEADLESS,
}  # the first that ends the architecture's name
_KIND_OF_SENTENCE_MODEL = {
    "SentenceTransformer": Kind.SENTENCE,
    "SparseEncoder": Kind.SPARSE,
    "MultiVectorEncoder": Kind.MULTI_VECTOR,
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a model folder; paths are relative to `folder`.

    Args:
        kind: what the model gives out.
        folder: the model's folder, or the file of a tokenizer alone.
        transformers: folders with `config.json` and weights of transformers; several behind a router, none where
            static embeddings or a tokenizer are all there is.
        tokenizers: folders with a tokenizer, one per part that reads text.
        architecture: the class that the first transformer's config names, `AutoModel` where it names none;
            else the class of the first module; "" for a tokenizer alone.
        num_labels: how many answers a classifier gives; None for other kinds.
        reranker: of a classifier with one answer, whether that is a score of pairs of texts: "stated" by settings of
            sentence-transformers' CrossEncoder, or "assumed" where the config names no `problem_type` either, which transformers
            writes into scorers of texts that it trained; None for these and for whatever else.
        modules: what `modules.json` lists, empty without one.
        prompts: the prompts of a sentence-transformers folder by name.
    """

    kind: Kind
    folder: Path
    transformers: tuple[Path, ...] = ()
    tokenizers: tuple[Path, ...] = (Path(),)
    architecture: str = ""
    num_labels: int | None = None
    reranker: Literal["stated", "assumed"] | None = None
    modules: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Path:
        """The folder of the first tokenizer."""
        return self.tokenizers[0]

    @property
    def tables(self) -> tuple[Module, ...]:
        """Modules whose own weights have one row per piece."""
        return tuple(module for module in self.modules if module.name in TABLES)

    @property
    def lowercases(self) -> bool:
        """Whether sentence-transformers lowercases a text before any of its tokenizers reads it."""
        readers = [module for module in self.modules if module.name in (*TRANSFORMERS, *TABLES)]
        settings = [module_config(self.folder, module) for module in readers]
        return bool(settings) and all(config.get("do_lower_case") for config in settings)


def read_layout(folder: str | Path) -> Layout:
    """Tell what lies in a model folder, from its configs alone: no weights are read and no model is built.

    A folder with `modules.json` is one of sentence-transformers: a sentence encoder, a sparse or a multi-vector encoder,
    or a cross-encoder, which is a classifier. Any other folder with `config.json` and weights is what the head of its
    `architectures[0]` says. What has no `config.json`, and a file, is a tokenizer alone.

    Args:
        folder: a model folder, or a tokenizer's folder or file.

    Returns:
        The kind and the parts.

    Raises:
        VocabularyError: a part that is not understood, by its name, or a config without weights.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("config.json").write_text('{"architectures": ["XLMRobertaForSequenceClassification"], "num_labels": 1}')
        >>> Path("model.safetensors").touch()
        >>> layout = read_layout(".")
        >>> layout.kind.value, layout.num_labels, layout.reranker
        ('classifier', 1, 'assumed')
    """
    folder = Path(folder)
    if not folder.exists():
        raise VocabularyError(f"{folder}: no such file or folder")
    if (folder / MODULES_FILE).is_file():
        return _sentence_layout(folder)
    if not folder.is_dir() or not has_weights(folder):
        if (folder / "adapter_config.json").is_file():
            raise VocabularyError(
                f"{folder}: an adapter without its model; merge it into the model (merge_and_unload) and save that"
            )
        if (folder / CONFIG).is_file():
            raise VocabularyError(
                f"{folder}: a {CONFIG} without weights beside it (expected one of {', '.join(WEIGHTS)}); fetch them or save the "
                "model again with save_pretrained, or name the tokenizer's file in the folder to take the tokenizer alone"
            )
        return Layout(kind=Kind.TOKENIZER, folder=folder)
    config = _read_config(folder)
    architecture = _architecture(config)
    kind = _kind_of(architecture, folder)
    return Layout(
        kind=kind,
        folder=folder,
        transformers=(Path(),),
        architecture=architecture,
        num_labels=_num_labels(config) if kind is Kind.CLASSIFIER else None,
        reranker=_reranker(config) if kind is Kind.CLASSIFIER else None,
    )


def named_ids(layout: Layout) -> list[int]:
    """Every id that a config of the folder names alone, ascending: of special pieces, of answers, of pieces to skip.

    A trim keeps them all, as a config that names a dropped piece has no meaning. Lists of pieces that are never said, such
    as `suppress_tokens`, name none here: they get shorter by what goes.

    Args:
        layout: as `read_layout` gives it.

    Raises:
        VocabularyError: a config that transformers cannot read, or a setting that is no id.

    Example:
        Defaults of the config's class count, as BERT's padding id 0.

        >>> from pathlib import Path
        >>> from vocabmerge import read_layout
        >>> _ = Path("config.json").write_text(
        ...     '{"model_type": "bert", "architectures": ["BertModel"], "eos_token_id": 7}')
        >>> Path("model.safetensors").touch()
        >>> named_ids(read_layout("."))
        [0, 7]
    """
    from vocabmerge.open_models import config_token_ids

    ids: set[int] = set()
    for part in layout.transformers:
        folder = layout.folder / part
        ids.update(ids_named(config_token_ids(folder), file=folder / CONFIG))
        generation = folder / GENERATION_CONFIG
        if generation.is_file():
            ids.update(ids_named(token_ids(read_json(generation)), file=generation))
    words: set[str] = set()
    for module in layout.modules:
        config = module_config(layout.folder, module)
        named = {name: config.get(name) for name in MODULE_IDS.get(module.name, ())}
        ids.update(ids_named(named, file=layout.folder / module.file))
        words.update(config.get("skiplist_words") or ())
        words.update(filter(None, [(config.get("query_expansion") or {}).get("token")]))
    if words:
        known = read_vocabulary(layout.folder / layout.tokenizer).ids
        ids.update(known[word] for word in words if word in known)
    return sorted(ids)


def _sentence_layout(folder: Path) -> Layout:
    modules = read_modules(folder)
    file = folder / SENTENCE_CONFIG
    settings = read_json(file) if file.is_file() else {}
    transformers = tuple(dict.fromkeys(m.path for m in modules if m.name in TRANSFORMERS))
    readers = tuple(dict.fromkeys(m.path for m in modules if m.name in (*TRANSFORMERS, *TABLES)))
    if not readers:
        raise VocabularyError(
            f"{folder / MODULES_FILE}: expected a module that reads text, got {', '.join(m.name for m in modules)}"
        )
    for path in readers:
        if not has_weights(folder / path):
            raise VocabularyError(
                f"{folder / path}: expected the weights of a module there, found none; fetch or save the model again"
            )
    configs = [_read_config(folder / path) for path in transformers]
    architectures = [_architecture(config) for config in configs]
    model_type = settings.get("model_type", "SentenceTransformer")
    num_labels = None
    if model_type == "CrossEncoder":
        kind = _kind_of(architectures[0], folder)
        num_labels = _num_labels(configs[0]) if kind is Kind.CLASSIFIER else None
    elif model_type not in _KIND_OF_SENTENCE_MODEL:
        raise VocabularyError(
            f"{file}: expected a model_type among {', '.join([*_KIND_OF_SENTENCE_MODEL, 'CrossEncoder'])}, "
            f"got {model_type!r}"
        )
    elif any(m.name == "SpladePooling" for m in modules):
        kind = Kind.SPARSE
    else:
        kind = _KIND_OF_SENTENCE_MODEL[model_type]
    return Layout(
        kind=kind,
        folder=folder,
        transformers=transformers,
        tokenizers=readers,
        architecture=architectures[0] if architectures else modules[0].name,
        num_labels=num_labels,
        reranker="stated" if num_labels == 1 else None,
        modules=modules,
        prompts=settings.get("prompts") or {},
    )


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_model_config(folder)
    nested = [name for name in ("text_config", "vision_config", "audio_config") if config.get(name)]
    if nested:
        raise VocabularyError(
            f"{folder / CONFIG}: a model of several parts ({', '.join(nested)}); save its text encoder alone"
        )
    return config


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or ["AutoModel"])[0])


def _kind_of(architecture: str, folder: Path) -> Kind:
    for ending, kind in _KIND_OF_HEAD.items():
        if architecture.endswith(ending):
            return kind
    raise VocabularyError(
        f"{folder / CONFIG}: {architecture} is no kind of model that is known here; expected an encoder with or "
        "without a head for masked words, sequences, tokens or questions"
    )


def _num_labels(config: Mapping[str, Any]) -> int:
    """As transformers counts them: two where the config names none."""
    labels = config.get("id2label") or {}
    return len(labels) or int(config.get("num_labels") or 2)


def _reranker(config: Mapping[str, Any]) -> Literal["stated", "assumed"] | None:
    if _num_labels(config) != 1:
        return None
    if any(config.get(name) for name in _OF_CROSS_ENCODERS):
        return "stated"
    return None if config.get("problem_type") else "assumed"
