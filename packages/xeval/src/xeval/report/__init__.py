"""Reports made from results: one HTML page, Markdown, pictures. Nothing here measures."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from xeval.errors import XevalError
from xeval.report.markdown import markdown
from xeval.report.page import page
from xeval.report.plots import write_plots
from xeval.statistics.result import Result

__all__ = ["markdown", "page", "write_plots", "write_report"]


def write_report(
    results: Iterable[Result], path: Path | str, *, title: str = "xeval report"
) -> None:
    """Write the page to a file, whole or not at all.

    Args:
        results: as `read_results` gives them.
        path: of the HTML file.
        title: its heading.

    Raises:
        XevalError: as `page`; or the path is a folder's.
    """
    path = Path(path)
    if path.is_dir():
        raise XevalError(
            f"{path}: is a folder; name a file for the page, such as {path / 'report.html'}"
        )
    content = page(results, title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
    Path(part).chmod(0o644)
    Path(part).replace(path)
