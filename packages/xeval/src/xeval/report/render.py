"""Pages from templates, in which text cannot become markup."""

import re
from collections.abc import Callable
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# Control characters are no HTML at all, and direction overrides would let a name rewrite its neighbours.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def environment(
    filters: dict[str, Callable[..., Any]], values: dict[str, Any] | None = None
) -> Environment:
    """The templates of this folder.

    Args:
        filters: what they do to values.
        values: what all of them know.
    """
    templates = Environment(
        loader=PackageLoader("xeval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(filters)
    templates.globals.update(values or {})
    return templates


def render(templates: Environment, name: str, **values: Any) -> Markup:
    """A template filled in; line breaks and indents between its elements are no part of the page."""
    text = templates.get_template(name).render(**values)
    return Markup(re.sub(r"(?:\A|(?<=>))(?:\n|\s\s+)(?=<|\Z)", "", text))  # noqa: S704  # the templates escape


def inline(name: str) -> Markup:
    """A style sheet or script of ours, as it is."""
    return Markup((resources.files("xeval.report") / "templates" / name).read_text("utf-8"))  # noqa: S704


def _printable(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value
