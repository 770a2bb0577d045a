"""The frame of the pages that commands write: one style, filters for figures, nothing loaded from elsewhere."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bistil.counted import counted

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def page_templates(package: str) -> Environment:
    """The templates of a package, which may extend `frame.html.jinja`.

    Args:
        package: in whose folder `templates` they lie.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("bistil.make")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["mib"] = lambda size: f"{size / 2**20:,.1f}"
    templates.filters["billions"] = lambda number: f"{number / 1e9:,.2f}"
    templates.filters["counted"] = counted
    templates.filters["thousands"] = lambda number: f"{number:,}"
    return templates
