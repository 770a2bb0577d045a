"""Which figures may not stand beside each other: of different protocols, on different test items, of different training data."""

from collections.abc import Iterable, Sequence

from xeval.errors import XevalError
from xeval.protocol import PROMPTS
from xeval.statistics.result import Result


def check_one_protocol(results: Iterable[Result]) -> None:
    """Refuse figures of one task that were obtained in different ways.

    A source language counts where it is not the language of the test: a figure on English of a model tuned on English
    goes with any other. Prompts belong to a model, as those in its folder do: two models may have different ones, but one
    model may not.

    Raises:
        XevalError: naming the task, two models and the settings that differ, and the option that chooses.
    """
    first: dict[tuple[str, ...], Result] = {}
    transferred: dict[tuple[str, str], Result] = {}
    for result in results:
        group = (result.task, result.split)
        of_model = (*group, result.model, result.model_digest)
        _check_settings(first.setdefault(of_model, result), result, ())
        _check_settings(first.setdefault(group, result), result, PROMPTS)
        if result.source_language != result.language:
            earlier = transferred.setdefault(group, result)
            if earlier.source_language != result.source_language:
                raise XevalError(
                    f"task {result.task!r} has results of two source languages, {earlier.source_language!r} of "
                    f"{earlier.model!r} and {result.source_language!r} of {result.model!r}; they cannot stand in one "
                    f"table: choose --source {earlier.source_language} or --source {result.source_language}"
                )


def _check_settings(earlier: Result, result: Result, aside: Sequence[str]) -> None:
    differ = [
        f"{key}: {earlier.protocol.get(key)!r} and {result.protocol.get(key)!r}"
        for key in dict.fromkeys([*earlier.protocol, *result.protocol])
        if key not in aside and earlier.protocol.get(key) != result.protocol.get(key)
    ]
    if differ:
        raise XevalError(
            f"task {result.task!r} has results of two protocols, of {earlier.model!r} and {result.model!r} "
            f"({'; '.join(differ)}); they cannot stand in one table: choose "
            f"--protocol {earlier.protocol_digest} or --protocol {result.protocol_digest}"
        )


def check_same_items(results: Iterable[Result]) -> None:
    """Refuse figures of one test set that stand on different items.

    Raises:
        XevalError: naming two models and the digests of their items.
    """
    first: dict[tuple[str, str, str, str], Result] = {}
    for result in results:
        if result.test_digest is None:
            continue
        key = (result.task, result.split, result.dataset, result.language)
        earlier = first.setdefault(key, result)
        if earlier.test_digest != result.test_digest:
            raise XevalError(
                f"{result.task}, {result.language} ({result.dataset}): {earlier.model!r} and {result.model!r} were scored "
                f"on different test items ({earlier.test_digest} and {result.test_digest}); score both on the same data"
            )


def check_same_training(results: Iterable[Result]) -> None:
    """Refuse figures of one task and source language whose models learned from different training data.

    Raises:
        XevalError: naming two models and the digests of their training data.
    """
    first: dict[tuple[str, str, str], Result] = {}
    for result in results:
        if result.train_digest is None:
            continue
        earlier = first.setdefault((result.task, result.split, result.source_language), result)
        if earlier.train_digest != result.train_digest:
            raise XevalError(
                f"{result.task}, tuned on {result.source_language}: {earlier.model!r} and {result.model!r} learned from different "
                f"training data ({earlier.train_digest} and {result.train_digest}); tune both on the same data"
            )
