import pytest

from teacherzoo.yaml_values import RepeatedKeyError, values_of


def test_a_key_of_another_place_may_be_stated_otherwise() -> None:
    text = """
    first: &first {steps: 10, width: 64}
    second: &second {<<: *first, steps: 20}
    third: {<<: *second, width: 32}
    """

    stated = values_of(text)

    assert stated["second"] == {"steps": 20, "width": 64}
    assert stated["third"] == {"steps": 20, "width": 32}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a'"),
        ("a:\n  - {b: 1, b: 1}", "line 2: the key 'b'"),
        ("[[{a: 1, 'a': 1}]]", "line 1: the key 'a'"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_line(text: str, fault: str) -> None:
    with pytest.raises(RepeatedKeyError, match=fault):
        values_of(text)
