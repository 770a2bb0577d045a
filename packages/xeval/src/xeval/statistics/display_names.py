"""What models and test sets are called in a table: the shortest name that is theirs alone."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from xeval.errors import XevalError
from xeval.statistics.result import Result


def model_labels(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """Label of each (model, digest): the name, followed by @digest where two models share it."""
    digests: dict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.model_digest not in digests[result.model]:
            digests[result.model].append(result.model_digest)
    return {
        (name, digest): name if len(of_name) == 1 else f"{name}@{digest[:8]}"
        for name, of_name in digests.items()
        for digest in of_name
    }


def of_model(results: Iterable[Result], wanted: str) -> list[Result]:
    """The results of the model with that label.

    Raises:
        XevalError: when there is none, with the labels there are.
    """
    results = list(results)
    labels = model_labels(results)
    of_wanted = [r for r in results if labels[r.model, r.model_digest] == wanted]
    if not of_wanted:
        there = f"results of {', '.join(map(repr, labels.values()))}" if labels else "none at all"
        raise XevalError(f"no results of a model {wanted!r}; there are {there}")
    return of_wanted


def place_labels(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """Label of each (language, data set) of one task: the language, with the data set where it has several."""
    datasets: dict[str, list[str]] = defaultdict(list)
    for result in results:
        if result.dataset not in datasets[result.language]:
            datasets[result.language].append(result.dataset)
    short = {
        (language, dataset): language if len(of_language) == 1 else _short(language, dataset)
        for language, of_language in datasets.items()
        for dataset in of_language
    }
    labels = list(short.values())
    return {
        (language, dataset): label if labels.count(label) == 1 else f"{language} {dataset}"
        for (language, dataset), label in short.items()
    }


def _short(language: str, dataset: str) -> str:
    """A data set's own name where it starts with its language, such as de_gsd of ud/de_gsd."""
    name = dataset.rpartition("/")[2]
    return name if name.startswith(f"{language}_") else f"{language} {dataset}"


def choose(
    results: Iterable[Result],
    *,
    protocols: Sequence[str] = (),
    source: str | None = None,
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> list[Result]:
    """Results narrowed to what is wanted; an empty choice keeps all.

    Args:
        results: any.
        protocols: digests, or their beginnings; a task in which one occurs keeps only its results.
        source: the source language; tasks without tuning, whose every language is its own source, are kept whole.
        tasks: names of tasks.
        metrics: names of metrics.

    Raises:
        XevalError: for a choice that no result meets.
    """
    results = list(results)
    for protocol in protocols:
        _met(f"protocol {protocol!r}", (r.protocol_digest.startswith(protocol) for r in results))
    for kind, wanted, known in (
        ("task", tasks, {r.task for r in results}),
        ("metric", metrics, {r.metric for r in results}),
        ("source language", [source] if source else [], {r.source_language for r in results}),
    ):
        for name in wanted:
            _met(f"{kind} {name!r} (there are {', '.join(sorted(known))})", [name in known])
    chosen = tuple(protocols)
    transferred = {r.task for r in results if r.source_language != r.language}
    narrowed = {r.task for r in results if chosen and r.protocol_digest.startswith(chosen)}
    return [
        r
        for r in results
        if (r.task not in narrowed or r.protocol_digest.startswith(chosen))
        and (not tasks or r.task in tasks)
        and (not metrics or r.metric in metrics)
        and (source is None or r.source_language == source or r.task not in transferred)
    ]


def _met(choice: str, among: Iterable[bool]) -> None:
    if not any(among):
        raise XevalError(f"no result has the {choice}")
