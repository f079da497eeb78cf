"""JSON bodies: what is read, and the one line for what is refused."""

import pytest

from gateway.bodies import MAX_DEPTH, read_body
from gateway.problems import HttpProblem


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"a": 1, "a": 2}', "has the key 'a' twice in one object"),
        (b'{"a": }', "is not JSON: Expecting value at column 7"),
        (b'{"a": 1,\n "b": tru}', "is not JSON: Expecting value at line 2, column 7"),
        (b"\xff", "is not UTF-8: invalid start byte at byte 1"),
        (b"\xef\xbb\xbf{}", "is not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at column 1"),
        (b'{"a": NaN}', "is not JSON: NaN is not a JSON number"),
        (b'{"a": 1e400}', "is not JSON: '1e400' is not a JSON number"),
        (b'{"a": "x\x00"}', "is not JSON: Invalid control character at at column 9"),
        (rb'{"a": ["x\u0000"]}', "must not contain a NUL character, which Postgres cannot store"),
        (rb'{"a\u0000": 1}', "must not contain a NUL character, which Postgres cannot store"),
        (rb'{"a": "\ud800"}', "must be valid Unicode, without half a surrogate pair"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"must be nested at most {MAX_DEPTH} levels deep"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"a":' * 1_000_000, "is nested too deeply"),
        (b"9" * 5_000, "has a number with too many digits"),
    ],
)
def test_the_rule_is_named(body: bytes, detail: str) -> None:
    """Each refusal is a 400 with one line."""
    with pytest.raises(HttpProblem) as refused:
        read_body(body)

    assert refused.value.status_code == 400
    assert refused.value.detail.removeprefix("the ") == f"body {detail}"


def test_ordinary_bodies_are_read() -> None:
    """Escapes, as many brackets as fit and the deepest allowed value are fine."""
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

    assert read_body(rb'{"a": "\u00e9\ud83d\ude00"}') == {"a": "é😀"}
    assert read_body(b"[" + b"[]," * 1_000 + b"[]]") == [[]] * 1_001
    assert read_body(deepest)
