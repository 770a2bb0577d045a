import kdkernels


def test_version_is_the_one_in_the_metadata() -> None:
    from importlib.metadata import version

    assert kdkernels.__version__ == version("kdkernels")
