"""Read the items of a batch from pieces of its body."""

import json
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bodies import MAX_JSON_BYTES
from gateway.job_items import BrokenItem, ItemFile, read_array, read_lines
from gateway.problems import HttpProblem

ITEMS = [{"stage": "a", "payload": {"text": 'ä\n,]}[{\\"', "n": [1, {"b": None}]}}, {}, {"x": 1.5}]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


async def pieces(body: bytes, seed: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces of random length, also in the middle of a character."""
    own, at = random.Random(seed), 0
    while at < len(body):
        length = own.randint(0, 9)
        yield body[at : at + length]
        at += length


async def read(reader, body: bytes, seed: int = 1) -> list[object]:
    return [item async for item in reader(pieces(body, seed))]


@given(st.lists(objects, max_size=5), st.integers(0, 99), st.sampled_from([None, 2]), st.booleans())
async def test_an_array_is_read_as_it_arrives(items, seed, indent, ascii_only):
    """However it is cut and written."""
    body = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode()

    assert await read(read_array, body, seed) == items


@given(st.lists(objects, max_size=5), st.integers(0, 99), st.sampled_from(["\n", "\r\n", "\n\n"]))
async def test_lines_are_read_as_they_arrive(items, seed, end):
    """With or without a last line break; blank lines count for nothing."""
    body = end.join(json.dumps(item) for item in items).encode()

    assert await read(read_lines, body, seed) == items
    assert await read(read_lines, body + end.encode(), seed) == items


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"  ", b"{}", b"[", b"[{}", b"[{},", b"[{},]", b"[,]", b"[{}{}]", b"[1]", b"[[]]", b"[{}] x", b"null"),
        *(b'[{"a": NaN}]', b'[{"a": 1, "a": 2}]', b'[{"a": "\xff"}]', b'[{"a": 1e999}]', b"[{a: 1}]"),
        *(b'["a"]', b'[{"a": "\\u0000"}]'),
        b'[{"a": ' + b"[" * 100 + b"]" * 100 + b"}]",
        b'[{"a": ' + b"[" * 100_000 + b"}]",
        b'[{"a": ' + b"1" * 5_000 + b"}]",
    ],
)
async def test_what_is_no_array_of_objects_is_refused(body):
    """In one line."""
    with pytest.raises(HttpProblem) as caught:
        await read(read_array, body)

    assert caught.value.kind.status == 400
    assert "body" in caught.value.detail


async def test_an_item_that_never_ends_is_refused_in_time(monkeypatch):
    """It does not fill the memory, and is not parsed at each piece."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'[{"a": "'
        while True:
            sent += 65_536
            yield b"x" * 65_536

    with pytest.raises(HttpProblem, match="is not JSON"):
        async for _ in read_array(endless()):
            pass
    assert sent < 3 * MAX_JSON_BYTES


async def test_a_line_that_never_ends_is_refused_in_time():
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    with pytest.raises(HttpProblem) as caught:
        async for _ in read_lines(endless()):
            pass
    assert caught.value.kind.status == 413


async def test_a_line_that_is_not_json_spoils_no_other():
    """It is one broken item."""
    found = await read(read_lines, b'{"a": 1}\n{"a": \n\xff\n{"b": 2, "b": 3}\n{"c": 4}')

    assert [type(item) for item in found] == [dict, BrokenItem, BrokenItem, BrokenItem, dict]
    assert "twice" in str(found[3])


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
def test_items_come_back_from_the_file_in_order(count):
    """In parts of a thousand."""
    items = ItemFile()
    for nth in range(count):
        items.add([str(nth), {"x": "ä"}])

    parts = list(items.read())
    items.close()

    assert items.count == count
    assert [item[0] for part in parts for item in part] == [str(nth) for nth in range(count)]
    assert all(len(part) <= 1_000 for part in parts)
