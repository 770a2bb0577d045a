"""HTML in which text cannot become markup: every string is escaped unless it was made here."""

import html
from collections.abc import Iterable


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: strings (escaped), markup (kept), numbers, None (nothing), or iterables of these.
        attributes: a trailing underscore is dropped and others become hyphens (`class_`, `aria_sort`); None and False
            leave the attribute out, True gives it no value.

    Example:
        >>> tag("td", "a < b", class_="name", hidden=False)
        '<td class="name">a &lt; b</td>'
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{_escape(value)}"')
    opening = f"<{name}{''.join(written)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(children)}</{name}>")


def join(content: object) -> Markup:
    """Content one after another."""
    if content is None:
        return Markup()
    if isinstance(content, Markup):
        return content
    if isinstance(content, str | int | float):
        return Markup(_escape(content))
    if isinstance(content, Iterable):
        return Markup("".join(join(part) for part in content))
    raise TypeError(f"no markup can be made of {type(content).__name__}")


def _escape(value: object) -> str:
    # Control characters are no HTML at all, and direction overrides would let a name rewrite its neighbours.
    text = "".join("\N{REPLACEMENT CHARACTER}" if _unprintable(c) else c for c in str(value))
    return html.escape(text, quote=True)


def _unprintable(character: str) -> bool:
    code = ord(character)
    return (
        (code < 32 and character not in "\n\t")
        or 127 <= code < 160
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
        or 0xD800 <= code <= 0xDFFF
    )


_VOID = {"wbr", "meta", "link", "br", "img", "col"}
