"""The verb: two or more models in, one out, by a mean of their weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from mergedistill.errors import FuseError
from mergedistill.fuse.models import Fused, ModelFiles, read_models
from teacherzoo.cache import MADE, cleared_if_refused, made_once, refuse_what_exists
from teacherzoo.digests import digest_of_files, digest_of_model
from teacherzoo.encoders.kinds import PLAIN_NAMES
from teacherzoo.nearest import nearest
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import Corpus
from vocabmerge import Kind
from vocabmerge.encoder_folder.weight_files import StoredTensor
from vocabmerge.tokenizer_file.json_file import read_json

Method = Literal["mean", "regmean", "evolve"]
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mean": {},
    "regmean": {"texts": (), "alpha": 0.9, "embeddings": "mean", "tokens": 100_000},
    "evolve": {"dev": {}, "trials": 40, "groups": 1, "seed": 0},
}
"""What each method takes beside the models and their weights."""
RECORD = "run.json"
_TRIALS = "trials.json"


def fuse(
    models: Sequence[str | Path],
    out: str | Path,
    *,
    by: Method = "mean",
    weights: Sequence[float] | None = None,
    texts: Sequence[str | Path] | None = None,
    alpha: float | None = None,
    embeddings: Literal["mean", "counts"] | None = None,
    tokens: int | None = None,
    dev: Mapping[str, str | Path] | None = None,
    trials: int | None = None,
    groups: int | None = None,
    seed: int | None = None,
    watch: ProgressCallback = no_progress,
) -> Path:
    r"""Merge models of one architecture and one vocabulary in weight space, without training.

    - `mean`: θ = Σ_i w_i θ_i.
    - `regmean` (Jin et al. 2023, "Dataless knowledge fusion by merging weights of language models", arXiv 2212.09849): every
      linear layer is W^T = (Σ_i w_i G̃_i)^{-1} Σ_i w_i G̃_i W_i^T, the one that answers each model's inputs X_i most nearly as
      that model does, with G_i = X_i^T X_i / n_i from one pass over that model's text and G̃_i = α G_i + (1 - α) diag(G_i).
      All else is the mean. On disk while it works: 4 I² bytes a model for each different input of I values.
    - `evolve` (after Du et al. 2024, "Knowledge fusion by evolving weights", arXiv 2406.12208): the w_i by differential
      evolution, judged on development sets; see `mergedistill.fuse.evolve.evolve`.

    The models should descend from one start: weights that were drawn apart have no common meaning, and their mean none at all.
    No two models are in memory at once. A call that was killed goes on when it is made again, and ends in the same bytes.

    Args:
        models: at least two folders as transformers or sentence-transformers writes them: masked LMs, encoders, classifiers,
            taggers, question answerers.
        out: a new folder.
        by: the method.
        weights: w_i, that sum to one; equal by default. `evolve` begins with them.
        texts: for `regmean`, a file of text for each model, in the order of the models, of what it was tuned on or the like.
        alpha: for `regmean`; 0.9 by default.
        embeddings: for `regmean`: `mean`, or `counts`, which weights each row by how often the model's text has its piece.
        tokens: for `regmean`, read at most so many of each text; 100,000 by default.
        dev: for `evolve`, names to development sets: text for masked LMs; for classifiers JSON Lines with `text` and `label`,
            a list where several labels may hold, for taggers with `words` and `labels`.
        trials: for `evolve`, judge at most so many mixtures; 40 by default.
        groups: for `evolve`, how many groups of neighbouring layers have weights of their own; 1 by default.
        seed: for `evolve`; 0 by default.
        watch: told (done, total, what).

    Returns:
        `out`. It opens as the models do; `README.md` is its card, `run.json` says what was done.

    Raises:
        FuseError: for models that differ in anything but their weights, and for options that make no sense.
        TeacherzooError, VocabularyError: for models and text that cannot be read.

    Example:
        >>> import tempfile
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
        >>> folder = Path(tempfile.mkdtemp())
        >>> tokenizer = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
        >>> config = BertConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> for name in ("a", "b"):
        ...     BertModel(config).save_pretrained(folder / name)
        ...     _ = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder / name)
        >>> _ = fuse([folder / "a", folder / "b"], folder / "ab")
        >>> a, b, ab = (BertModel.from_pretrained(folder / name).pooler.dense.weight for name in ("a", "b", "ab"))
        >>> bool(((a + b) / 2 - ab).abs().max() < 1e-6)
        True
    """
    out, folders = Path(out), [Path(model) for model in models]
    given: dict[str, Any] = {
        "texts": texts,
        "alpha": alpha,
        "embeddings": embeddings,
        "tokens": tokens,
    }
    given |= {"dev": dev, "trials": trials, "groups": groups, "seed": seed}
    read, shares, options = checked(folders, out, by=by, weights=weights, given=given)
    inputs = {
        "models": [digest_of_model(folder) for folder in folders],
        "by": by,
        "weights": shares,
        "options": options
        | {"texts": [digest_of_files([Path(text)]) for text in options.get("texts", ())]}
        | {"dev": {name: digest_of_files([Path(file)]) for name, file in options.get("dev", {}).items()}},
        "version": version("mergedistill"),
    }  # fmt: skip
    plan = _Plan(models=read, by=by, shares=shares, options=options, inputs=inputs, watch=watch)
    return made_once(
        out, inputs, lambda work: _make(work, out.name, plan), refuse=FuseError, watch=watch
    )


def checked(
    folders: Sequence[Path],
    out: Path,
    *,
    by: str,
    weights: Sequence[float] | None,
    given: Mapping[str, Any],
) -> tuple[list[ModelFiles], tuple[float, ...], dict[str, Any]]:
    """What `fuse` refuses, refused before anything slow is imported.

    Args:
        folders: of the models.
        out: a new folder.
        by: the method.
        weights: of the models.
        given: options of the methods by name, None where they are left to their defaults.

    Returns:
        The models, their weights, and the options of the method.

    Raises:
        FuseError, TeacherzooError, VocabularyError: see `fuse`.
    """
    refuse_what_exists(out, FuseError)
    options = _options(by, {name: value for name, value in given.items() if value is not None})
    shares = _shares(weights, len(folders))
    models = read_models(folders)
    _refuse_what_has_no_sense(by, options, models)
    return models, shares, options


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be fused, checked; for the rest see `fuse`."""

    models: Sequence[ModelFiles]
    by: Method
    shares: tuple[float, ...]
    options: Mapping[str, Any]
    inputs: Mapping[str, Any]
    watch: ProgressCallback


def _make(work: Path, name: str, plan: _Plan) -> None:
    from mergedistill.fuse.card import card
    from mergedistill.fuse.folder import write_fused

    with cleared_if_refused(*_grams_files(work, plan), work / _TRIALS):
        fused, facts = _METHODS[plan.by](work, plan)
        plan.watch(0, 1, f"writing {name}")
        write_fused(plan.models, work / MADE, fused)
    record = {
        "fused": [model.folder.name for model in plan.models],
        **plan.inputs,
        **facts,
        "versions": {library: version(library) for library in ("torch", "transformers")},
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (work / MADE / RECORD).write_text(text + "\n", encoding="utf-8")
    page = card(
        plan.models, name=name, by=plan.by, shares=plan.shares, options=plan.options, facts=facts
    )
    (work / MADE / "README.md").write_text(page, encoding="utf-8")


def _by_mean(_work: Path, plan: _Plan) -> tuple[Fused, dict[str, Any]]:
    from mergedistill.fuse.mean import mean_of

    return lambda _place, _name, tensors: mean_of(tensors, plan.shares), {}


def _by_regmean(work: Path, plan: _Plan) -> tuple[Fused, dict[str, Any]]:
    from mergedistill.fuse.grams import Grams, gather_grams
    from mergedistill.fuse.mean import mean_of
    from mergedistill.fuse.regmean import regmean_of

    options, encoder = plan.options, plan.models[0].encoder
    files = _grams_files(work, plan)
    for model, text, file in zip(plan.models, options["texts"], files, strict=True):
        if not file.is_file():
            gather_grams(
                model.folder,
                model.folder / encoder,
                Path(text),
                file,
                tokens=options["tokens"],
                watch=plan.watch,
            )
    grams = [Grams.of(file) for file in files]

    def fused(place: Path, _name: str, tensors: Sequence[StoredTensor]) -> StoredTensor:
        if place != encoder:
            return mean_of(tensors, plan.shares)
        return regmean_of(
            tensors,
            grams,
            shares=plan.shares,
            alpha=options["alpha"],
            embeddings=options["embeddings"],
        )

    return fused, {"tokens": [of.positions for of in grams]}


def _grams_files(work: Path, plan: _Plan) -> list[Path]:
    return [work / f"grams-{number}.safetensors" for number in range(len(plan.models))]


def _by_evolution(work: Path, plan: _Plan) -> tuple[Fused, dict[str, Any]]:
    from mergedistill.fuse.evolve import depth_of, evolve, group_of
    from mergedistill.fuse.mean import mean_of

    groups, depth, encoder = plan.options["groups"], depth_of(plan.models), plan.models[0].encoder
    if groups > depth + 1:
        raise FuseError(
            f"groups must be at most {depth + 1}, for the models have {depth} layers and what is behind them, got {groups}."
        )
    evolved = evolve(
        plan.models,
        {name: Path(file) for name, file in plan.options["dev"].items()},
        work / _TRIALS,
        start=plan.shares,
        groups=groups,
        trials=plan.options["trials"],
        seed=plan.options["seed"],
        watch=plan.watch,
    )
    facts = {"mixture": evolved.mixture, "verdict": evolved.verdict, "judged": evolved.trials}
    if evolved.trials:
        facts |= {"start": evolved.start, "best": evolved.best, "gain": evolved.gain}

    def fused(place: Path, name: str, tensors: Sequence[StoredTensor]) -> StoredTensor:
        group = group_of(name, groups=groups, depth=depth) if place == encoder else groups - 1
        return mean_of(tensors, evolved.mixture[group])

    return fused, facts


_METHODS: Mapping[Method, Callable[[Path, _Plan], tuple[Fused, dict[str, Any]]]] = {
    "mean": _by_mean,
    "regmean": _by_regmean,
    "evolve": _by_evolution,
}


def _options(by: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if by not in get_args(Method):
        known = get_args(Method)
        raise FuseError(f"by must be {', '.join(known[:-1])} or {known[-1]}, got {by!r}{nearest(by, known)}.")  # fmt: skip
    defaults = DEFAULTS[by]
    for name in given:
        if name not in defaults:
            owner = next(method for method in DEFAULTS if name in DEFAULTS[method])
            raise FuseError(f"{name} is an option of {owner}, and does nothing with {by}; leave it out.")  # fmt: skip
    return {**defaults, **given}


def _shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count if count else ()
    shares = tuple(float(weight) for weight in weights)
    if len(shares) != count or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:  # fmt: skip
        raise FuseError(
            f"weights must be {count} numbers of at least 0 that sum to 1, one for each model, got "
            f"{', '.join(f'{share:g}' for share in shares) or 'none'}; state them anew."
        )
    return shares


def _refuse_what_has_no_sense(
    by: str, options: Mapping[str, Any], models: Sequence[ModelFiles]
) -> None:
    kind = models[0].layout.kind
    if by == "regmean":
        if len(options["texts"]) != len(models):
            raise FuseError(
                f"regmean takes a text of each of the {len(models)} models, got {len(options['texts'])}; "
                "name a file of what each was tuned on."
            )
        if not 0 <= options["alpha"] <= 1:
            raise FuseError(f"alpha must be in [0, 1], got {options['alpha']!r}.")
        if options["embeddings"] not in ("mean", "counts"):
            raise FuseError(f"embeddings must be 'mean' or 'counts', got {options['embeddings']!r}.")  # fmt: skip
        if options["tokens"] < 1:
            raise FuseError(f"tokens must be at least 1, got {options['tokens']!r}.")
    if by == "evolve":
        config = read_json(models[0].folder / models[0].encoder / "config.json")
        numbers = models[0].layout.num_labels == 1 or config.get("problem_type") == "regression"
        if kind not in (Kind.MASKED_LM, Kind.CLASSIFIER, Kind.TOKEN_CLASSIFIER) or numbers:
            answers = " whose answers are numbers" if numbers else ""
            raise FuseError(
                f"evolve judges masked LMs, classifiers of at least two labels and taggers, got {PLAIN_NAMES[kind]}{answers}; "
                "use mean or regmean."
            )
        if not options["dev"]:
            raise FuseError("evolve takes a development set to judge by, got none; name a file of rows or text.")  # fmt: skip
        for name, least in (("trials", len(models) + 3), ("groups", 1), ("seed", 0)):
            if options[name] < least:
                raise FuseError(f"{name} must be at least {least}, got {options[name]!r}.")
    for file in (*options.get("texts", ()), *options.get("dev", {}).values()):
        if not Path(file).is_file():
            raise FuseError(f"{file}: expected a file of text, there is none; give its path.")
    # A pass over the text before would be lost.
    for text in options.get("texts", ()):
        next(Corpus("text", text).documents())
