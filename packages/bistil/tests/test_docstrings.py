import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["encoders.capture", "student.layers", "student.units"])
def test_examples_run(module: str) -> None:
    result = doctest.testmod(import_module(f"bistil.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
