"""The house's Markdown as a small static site: no script, nothing loaded from elsewhere, light and dark.

    python tools/website.py

A page is written to `site/` for each file of `PAGES`; links between them are rewritten, and what else they link to is
copied. A link that leads nowhere is an error, and then nothing is written.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from graph import ROOT, WorkspaceError
from markdown_it import MarkdownIt
from markdown_it.token import Token

# What the menu shows, in its order.
PAGES = {
    "": ["README.md"],
    "Guides": ["docs/*.md", "examples/README.md"],
    "Packages": ["packages/*/README.md"],
    "The house": ["benchmarks/README.md", "CONTRIBUTING.md", "HOUSE.md"],
    "Changes": ["packages/*/CHANGELOG.md"],
}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
REPORT = Path("benchmarks", "report.html")
ABROAD = ("http:", "https:", "mailto:")


@dataclass
class Page:
    """One file of Markdown and where it goes, both from the root."""

    source: Path
    goes_to: Path
    tokens: list[Token]
    title: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    """Anchor and words of each heading of the second level."""


def build(root: Path, out: Path) -> int:
    """Write the site of the house at `root` into the folder `out`; returns the number of pages.

    Raises:
        WorkspaceError: a link leads nowhere, each named with its page.
    """
    menu = {group: [_read(root, file) for file in _sources(root, group)] for group in PAGES}
    pages = {page.source: page for group in menu.values() for page in group}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        site = Path(temporary, "site")
        _write_report(root, site / REPORT)
        for page in pages.values():
            _rewrite_links(page, pages, root, site)
            file = site / page.goes_to
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_html(page, menu), encoding="utf-8")
        if dead := dead_links(site):
            raise WorkspaceError("These links lead nowhere:\n" + "\n".join(dead))
        shutil.rmtree(out, ignore_errors=True)
        site.rename(out)
    return len(pages)


def dead_links(site: Path) -> list[str]:
    """Every link of every page in the folder to a file or an anchor that is not there."""
    seen = {file.resolve(): _Links(file) for file in sorted(site.rglob("*.html"))}
    dead = []
    for file, page in seen.items():
        for link in page.links:
            if link.startswith(("data:", *ABROAD)):
                continue
            path, _, anchor = link.partition("#")
            target = (file.parent / unquote(path)).resolve() if path else file
            known = seen[target].anchors if target in seen else set()
            inside = target.is_relative_to(site.resolve())
            if not (inside and target.is_file()) or (anchor and unquote(anchor) not in known):
                dead.append(f"{file.relative_to(site.resolve())}: {link}")
    return dead


class _Links(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                self.links.append(value or "")


# --- from Markdown ----------------------------------------------------------------------------------------------------


def _sources(root: Path, group: str) -> Iterator[Path]:
    for pattern in PAGES[group]:
        yield from sorted(file.relative_to(root) for file in root.glob(pattern))


def _read(root: Path, source: Path) -> Page:
    """A page, its headings with the anchors that GitHub would give them."""
    tokens = MARKDOWN.parse((root / source).read_text(encoding="utf-8"))
    page = Page(source, _place(source), tokens)
    anchors: set[str] = set()
    for token, inner in zip(page.tokens, page.tokens[1:], strict=False):
        if token.type == "heading_open":
            words = "".join(child.content for child in inner.children or [])
            page.title = page.title or words
            token.attrSet("id", _anchor(words, anchors))
            if token.tag == "h2":
                page.sections.append((str(token.attrGet("id")), words))
    return page


def _place(source: Path) -> Path:
    if source.name == "README.md":
        return source.with_name("index.html")
    return source.with_name(f"{source.stem.lower()}.html")


def _anchor(words: str, taken: set[str]) -> str:
    first = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
    anchor, number = first, 0
    while anchor in taken:
        number += 1
        anchor = f"{first}-{number}"
    taken.add(anchor)
    return anchor


def _rewrite_links(page: Page, pages: dict[Path, Page], root: Path, site: Path) -> None:
    for token in page.tokens:
        for child in token.children or []:
            for name in ("href", "src"):
                link = str(child.attrGet(name) or "")
                if link and not link.startswith(("#", *ABROAD)):
                    child.attrSet(name, _link(link, page, pages, root, site))


def _link(link: str, page: Page, pages: dict[Path, Page], root: Path, site: Path) -> str:
    """Where a link of the Markdown leads in the site; what it leads to is copied unless it is a page."""
    path, mark, anchor = link.partition("#")
    wanted = Path(os.path.normpath(page.source.parent / unquote(path)))
    if (root / wanted).is_dir():
        wanted /= "README.md" if (root / wanted / "README.md").exists() else "index.html"
    if wanted in pages:
        wanted = pages[wanted].goes_to
    elif wanted.name == "index.html":
        _list_folder(root / wanted.parent, site / wanted.parent)
    elif (root / wanted).is_file() and wanted.parts[0] != "..":
        (site / wanted).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / wanted, site / wanted)
    return _from(page.goes_to, wanted) + mark + anchor


def _list_folder(folder: Path, copy: Path) -> None:
    """A folder that explains nothing itself: its files, and a page that names them."""
    copy.mkdir(parents=True, exist_ok=True)
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    for file in files:
        shutil.copy(file, copy)
    names = "".join(f'<li><a href="{file.name}">{file.name}</a></li>' for file in files)
    (copy / "index.html").write_text(
        _FRAME.format(title=folder.name, style=_STYLE, body=f"<main><h1>{folder.name}</h1><ul>{names}</ul></main>"),
        encoding="utf-8",
    )  # fmt: skip


def _from(page: Path, target: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


# --- to HTML ----------------------------------------------------------------------------------------------------------


def _html(page: Page, menu: dict[str, list[Page]]) -> str:
    home = _from(page.goes_to, Path("index.html"))
    text = MARKDOWN.renderer.render(page.tokens, MARKDOWN.options, {})
    text = re.sub(
        r"<table>.*?</table>", r"<div class=wide tabindex=0>\g<0></div>", text, flags=re.S
    )
    body = (
        f'<header><a href="{home}">Distillery</a> <a class=skip href="#pages">All pages</a></header>'
        f"<main>{text}</main><nav id=pages aria-label=Pages>{_menu(page, menu)}</nav>"
    )
    return _FRAME.format(title=html.escape(page.title), style=_STYLE, body=body)


def _menu(page: Page, menu: dict[str, list[Page]]) -> str:
    parts = []
    for group, pages in menu.items():
        items = [_item(linked, page) for linked in pages]
        if REPORT.parent in {linked.source.parent for linked in pages}:
            items.append(f'<li><a href="{_from(page.goes_to, REPORT)}">Report of the benchmarks</a></li>')  # fmt: skip
        parts.append((f"<h2>{group}</h2>" if group else "") + f"<ul>{''.join(items)}</ul>")
    return "".join(parts)


def _item(linked: Page, page: Page) -> str:
    link = f'<a href="{_from(page.goes_to, linked.goes_to)}"'
    title = html.escape(linked.title.removeprefix("Changelog of "))
    if linked is not page:
        return f"<li>{link}>{title}</a></li>"
    sections = "".join(
        f'<li><a href="#{anchor}">{html.escape(words)}</a></li>' for anchor, words in page.sections
    )
    return f"<li>{link} aria-current=page>{title}</a><ul>{sections}</ul></li>"


_STYLE = (Path(__file__).parent / "website.css").read_text(encoding="utf-8")
_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head>
<body>{body}</body></html>
"""


def _write_report(root: Path, file: Path) -> None:
    """The page of the benchmarks, from what is recorded."""
    file.parent.mkdir(parents=True)
    results = map(str, sorted((root / "benchmarks" / "results").glob("*.jsonl")))
    program = str(root / "benchmarks" / "report.py")
    subprocess.run(
        [sys.executable, program, *results, "--html", str(file), "--markdown", os.devnull], check=True
    )  # fmt: skip


def main() -> None:
    """Build it into `site/`, or exit with what is wrong."""
    try:
        print(f"{build(ROOT, ROOT / 'site')} pages: {ROOT / 'site' / 'index.html'}")
    except WorkspaceError as error:
        sys.exit(f"website: {error}")


if __name__ == "__main__":
    main()
