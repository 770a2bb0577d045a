from hypothesis import given
from hypothesis import strategies as some

from teacherzoo.text.digest_set import Digests

# Few different bytes, so that what is stored often contains what is asked for, across the border of two digests.
digests = some.binary(min_size=16, max_size=16).map(lambda raw: bytes(byte % 2 for byte in raw))


@given(some.lists(digests, max_size=200))
def test_a_digest_is_new_once_as_in_a_set(given: list[bytes]) -> None:
    compact = Digests()
    plain: set[bytes] = set()

    for digest in given:
        assert compact.add(digest) == (digest[:10] not in plain)
        plain.add(digest[:10])
