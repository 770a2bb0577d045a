"""Runs what a README shows, as a reader would paste it.

Blocks marked ```python run first, top to bottom, in one namespace; then the lines `$ command` of blocks marked
```console, in order; all in one empty folder, offline, two pages at a time with one thread each. The commands start from a
process that has imported the heavy libraries already (see `preloaded.py`). A block that follows the line
`<!-- not run: REASON -->` is left out; the reason is for the reader of the source.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from graph import read_packages
from preloaded import preloaded_python

# Read when the libraries are imported, so for all pages alike.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}

_BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n+)?^```(?P<language>python|console)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """One block of a README: its language, its text and the line of its first line of text."""

    language: str
    text: str
    line: int


def snippets(markdown: str) -> list[Snippet]:
    """The blocks to run, in the order of the text."""
    return [
        Snippet(
            language=block["language"],
            text=block["text"],
            line=markdown.count("\n", 0, block.start("text")) + 1,
        )
        for block in _BLOCK.finditer(markdown)
        if block["skip"] is None
    ]


def commands(snippet: Snippet) -> list[str]:
    """The commands of a console block: what stands behind `$ `, with lines that a backslash continues."""
    joined = snippet.text.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def run(readme: Path, programs: Path | None = None) -> list[str]:
    """Run a README's blocks; one entry for each that failed, with the end of what it printed.

    Args:
        readme: the page.
        programs: a folder with `python` and our commands, to be found before others.
    """
    shown = snippets(readme.read_text(encoding="utf-8"))
    path = [programs, Path(sys.executable).parent, os.environ["PATH"]]
    environment = os.environ | ENVIRONMENT
    environment |= {"PATH": os.pathsep.join(str(part) for part in path if part is not None)}
    interpreter = sys.executable if programs is None else str(programs / "python")
    python = "\n".join(
        # Blank lines in front keep the README's line numbers in a traceback.
        f"exec(compile({chr(10) * (snippet.line - 1) + snippet.text!r}, {str(readme)!r}, 'exec'))"
        for snippet in shown
        if snippet.language == "python"
    )
    jobs = [("the python blocks", [interpreter, "-c", python])] if python else []
    jobs += [
        (f"line {snippet.line}: {command}", ["bash", "-c", command])
        for snippet in shown
        if snippet.language == "console"
        for command in commands(snippet)
    ]
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for title, command in jobs:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                failures.append(f"{readme}: {title} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return failures


def main() -> None:
    """Run the named READMEs; exit with the failures, if there are any."""
    os.environ |= ENVIRONMENT
    programs_of_ours = [
        name for name, package in read_packages().items() if any(package.source.glob("cli*"))
    ]
    with preloaded_python(commands=programs_of_ours) as programs, ThreadPoolExecutor(2) as pages:
        lists = pages.map(partial(run, programs=programs), map(Path, sys.argv[1:]))
        failures = [failure for failures in lists for failure in failures]
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
