"""The one rule that turns the text of a plain scalar into a value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxmig.config import scalars

CASES = {
    "": None,
    "~": None,
    "null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "FALSE": False,
    "0": 0,
    "-3": -3,
    "+3": 3,
    "150_001": 150001,
    "1e-3": 1e-3,
    "1E3": 1e3,
    "3.e-5": 3e-5,
    ".5": 0.5,
    "1.0": 1.0,
    "1_000.5": 1000.5,
    ".inf": math.inf,
    "-.inf": -math.inf,
    # what YAML 1.1 would read as something else, or what nobody can be sure of, is text
    "yes": "yes",
    "No": "No",
    "on": "on",
    "010": "010",
    "0x10": "0x10",
    "0_1": "0_1",
    "1:30": "1:30",
    "2024-01-01": "2024-01-01",
    "inf": "inf",
    "nan": "nan",
    "e3": "e3",
    "-": "-",
    ".": ".",
    "1e": "1e",
    "none": "none",
}


@pytest.mark.parametrize("text", CASES)
def test_value(text: str) -> None:
    value = scalars.value(text)
    assert value == CASES[text]
    assert type(value) is type(CASES[text])


def test_not_a_number() -> None:
    assert math.isnan(scalars.value(".nan"))


@given(st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_plain_is_read_back(value: object) -> None:
    text = scalars.plain(value)
    if text in ("inf", "-inf"):
        return  # no key takes an infinity
    back = scalars.value(text)
    assert back == value and type(back) is type(value)


def test_plain_floats_are_numbers_for_every_yaml_reader() -> None:
    assert scalars.plain(1e-5) == "1.0e-05"
    assert scalars.plain(1.5e-8) == "1.5e-08"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "'a b'"),
        ("", "''"),
        ("*", "'*'"),
        ("- a", "'- a'"),
        ("true", "'true'"),
        ("7", "'7'"),
        ("it's", '"it\'s"'),
        (("a", ("b",)), "[a, [b]]"),
        ({"a": 1}, "{a: 1}"),
    ],
)
def test_plain_quotes_what_needs_it(value: object, text: str) -> None:
    assert scalars.plain(value) == text
