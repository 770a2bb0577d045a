"""The digests of the documents that a corpus has had, in 11 to 24 bytes each, the more there are the fewer."""

from __future__ import annotations

_BUCKET = 2  # leading bytes that choose a bucket
_KEPT = 8  # bytes behind them that are compared


class Digests:
    """A set of digests that only grows, an eighth of what a `set` of them takes.

    Of each digest 80 bits are compared: among a thousand million documents, two different ones meet with a
    probability of one in two million.

    Example:
        >>> seen = Digests()
        >>> seen.add(b"0123456789abcdef"), seen.add(b"0123456789abcdef")
        (True, False)
    """

    def __init__(self) -> None:
        self._buckets: dict[bytes, bytearray] = {}

    def add(self, digest: bytes) -> bool:
        """Whether a digest of at least 10 bytes is new; from now on it is not."""
        bucket = self._buckets.setdefault(digest[:_BUCKET], bytearray())
        kept = digest[_BUCKET : _BUCKET + _KEPT]
        place = bucket.find(kept)
        while place % _KEPT and place >= 0:  # it may lie across two of them
            place = bucket.find(kept, place + 1)
        if place >= 0:
            return False
        bucket += kept
        return True
