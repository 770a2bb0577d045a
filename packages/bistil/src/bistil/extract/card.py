"""The student's card: what it is, from whom, on what, how close it came; made from the run, nothing by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bistil.counted import counted
from bistil.extract.opened_as import OPENED_AS
from bistil.extract.plan import Plan
from bistil.losses.table import EXTRACT_TERMS
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.catalogue.licence import UNKNOWN, licence_of
from vocabmerge.hub.card_metadata import card_metadata
from vocabmerge.hub.fetch import is_hub_name

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

Terms = Mapping[str, Mapping[str, float]]


def card(
    plan: Plan,
    extraction: Mapping[str, Any],
    *,
    name: str,
    sfts: Mapping[str, str],
    texts: Mapping[str, str],
    licences: Mapping[str, str],
    before: Terms,
    after: Terms,
) -> str:
    """The model card's Markdown: the Hub's metadata, and the page `card.md.jinja`.

    Args:
        plan: in figures.
        extraction: every option.
        name: of the student.
        sfts: language to the sparse fine-tuning that the teacher had on.
        texts: language to the name of its text.
        licences: language to the licence of its text, where that is known.
        before: per language the terms on held-out text before training.
        after: the same after it.
    """
    from huggingface_hub import ModelCard, ModelCardData

    folder = Path(plan.teacher)
    hub = None if folder.exists() else find_teacher(plan.teacher)
    made_of = [] if hub else _bases_of(folder)
    licence = licence_of(hub or plan.teacher)
    opened = OPENED_AS[plan.kind]
    results = list(_results(texts, after, opened.pipeline_tag))
    # One for all: what is made of several is under each of their licences.
    stated = {(known or "").lower() for known in (licence, *map(licences.get, plan.languages))}
    data = ModelCardData(
        base_model=hub
        or (
            made_of[0] if len(made_of) == 1 else made_of or None
        ),  # the Hub takes no path of a folder
        base_model_relation="finetune" if hub or made_of else None,
        eval_results=results or None,
        language=list(plan.languages),
        library_name=opened.library,
        license=(stated.pop() or None) if len(stated) == 1 else None,
        model_name=name,
        pipeline_tag=opened.pipeline_tag,
        tags=["knowledge-distillation", "bistil"],
    )
    page = ModelCard.from_template(
        data,
        template_str=(files("bistil.extract") / "card.md.jinja").read_text(encoding="utf-8"),
        name=name,
        opened=opened,
        plan=plan,
        extraction=extraction,
        languages=" and ".join(filter(None, (", ".join(plan.languages[:-1]), plan.languages[-1]))),
        teacher=hub or folder.name,
        made_of=made_of,
        teacher_licence=licence or UNKNOWN,
        text_licences={language: licences.get(language, UNKNOWN) for language in plan.languages},
        texts=texts,
        sfts={language: Path(file).name for language, file in sfts.items()},
        plain_names=_PLAIN_NAMES,
        before=before,
        after=after,
        counted=counted,
    )
    return str(page)


_PLAIN_NAMES = {term.name: term.plain_name for term in EXTRACT_TERMS}


def _bases_of(folder: Path) -> list[str]:
    """What the Hub calls the models that a folder was made of, as its own card says: a trim's, or a tuned model's."""
    stated = card_metadata(folder).get("base_model")
    names = [stated] if isinstance(stated, str) else stated or []
    return [name for name in names if is_hub_name(name)]


def _results(texts: Mapping[str, str], after: Terms, pipeline_tag: str) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    for language, terms in after.items():
        for term, value in terms.items():
            yield EvalResult(
                task_type=pipeline_tag,
                dataset_type="text",
                dataset_name=f"{texts[language]}, held out",
                dataset_config=language,
                metric_type=term,
                metric_name=_PLAIN_NAMES[term],
                metric_value=float(f"{value:.4g}"),
            )
