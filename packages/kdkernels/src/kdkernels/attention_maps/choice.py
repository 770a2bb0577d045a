"""From the name of an implementation to its function."""

from kdkernels.attention_maps.sums import Walk


def walk_of(impl: str) -> Walk:
    """The function behind "torch" or "triton"; only the latter imports triton."""
    if impl == "triton":
        from kdkernels.attention_maps import kernel

        return kernel.walk
    from kdkernels.attention_maps import chunked

    return chunked.walk
