"""What holds in every test of the workspace: offline, silent, seeded."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
# The same programs for all processes: what DeepSpeed has compiled by one ninja is stale to another.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

# The toy world and what else of `tools/` tests need lie beside this file where one package is tested alone.
_here = Path(__file__).parent
sys.path.insert(0, str(_here / "tools" if (_here / "tools").is_dir() else _here))

from preloaded import preloaded_python  # noqa: E402  (the path comes first)


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """A program like `sys.executable` whose processes begin with torch and transformers imported, one thread each."""
    with preloaded_python() as programs:
        yield str(programs / "python")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported lives to the end: no collection of garbage walks through it, of which one run of `Trainer` asks for several."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_earlier_files_imported_is_walked_no_more() -> None:
    """Libraries import much when they are first used."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Let the interpreter and Hypothesis see all objects again as they end."""
    gc.unfreeze()
