"""docs/http.md: its table is that of this release, and its examples are run in their order."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.http_reference import PAGE, described, with_table
from workers.runtime.api_keys import SCOPES

_BLOCK = re.compile(r"```http\n(.*?)```", re.DOTALL)
_SAVED = re.compile(r"\((\w+) is \$([A-Z_]+)\)")


class Example(NamedTuple):
    """A request of the page, the status of its answer, and the member of the answer that later requests use."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    status: int
    saved: tuple[str, str] | None


def examples() -> Iterator[Example]:
    for block in _BLOCK.findall(PAGE.read_text()):
        request, _, answer = block.partition("\nHTTP/1.1 ")
        head, _, body = request.partition("\n\n")
        first, *lines = head.split("\n")
        method, path = first.split(" ")[:2]
        headers = dict(line.split(": ", 1) for line in lines if line)
        found = _SAVED.search(answer.split("\n", 1)[0])
        yield Example(method, path, headers, body.rstrip("\n"), int(answer[:3]), found and (found[1], found[2]))


def test_the_table_is_that_of_this_release() -> None:
    """`python -m tests.support.http_reference` writes it."""
    page = PAGE.read_text()

    assert page == with_table(page, described())


async def test_the_examples_answer_as_the_page_says(client, world):
    """One after the other, with a key that has all scopes."""
    names = {"KEY": (await world.key(None, *SCOPES))["Authorization"].removeprefix("Bearer ")}
    count = 0
    for one in examples():
        headers = {name: fill(value, names) for name, value in one.headers.items()}
        body = fill(one.body, names)
        if headers.get("Content-Type", "").startswith("multipart/"):
            body = body.replace("\n", "\r\n") + "\r\n"
        elif body:
            json.loads(body)
            headers.setdefault("Content-Type", "application/json")
        answer = await client.request(one.method, fill(one.path, names), headers=headers, content=body.encode())
        assert answer.status_code == one.status, (one, answer.text)
        if one.saved:
            member, name = one.saved
            names[name] = str(answer.json()[member])
        count += 1
    assert count >= 10


def fill(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"${name}", value)
    return text
