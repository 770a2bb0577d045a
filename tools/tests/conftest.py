"""One world for all tests of the toy world: it takes seconds to make."""

import pytest
from toyworld import World


@pytest.fixture(scope="session")
def world() -> World:
    return World(seed=0)
