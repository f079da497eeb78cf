"""The examples of README.md and docs/client.md run: against the gateway in memory, a real one, and a real database."""

import os
import re
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from conformance.worlds import Real
from gristmill_client.http import Client

ROOT = Path(__file__).parents[2]
PAGES = ("client/README.md", "docs/client.md")
PENDING = """SELECT j.id FROM scoring.scoring_jobs AS j JOIN auth.users AS u ON u.id = j.owner_id
              WHERE j.status = 'pending' AND u.email = 'first@example.test'"""


def blocks(page):
    """Return the Python of a page, one text for each block, with blank lines before it so that lines keep numbers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield "\n" * (text[: found.start(1)].count("\n")) + found[1]


@contextmanager
def working(world):
    """Complete every job of the first tenant, as a worker would."""
    stopping = threading.Event()

    def work():
        with psycopg.connect(os.environ["CLIENT_DATABASE_URL"], autocommit=True) as psql:
            while not stopping.is_set():
                for (id_,) in psql.execute(PENDING).fetchall():
                    try:
                        world.complete(id_, {"overall": 7})
                    except psycopg.Error:
                        continue  # it was cancelled meanwhile
                time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(  # noqa: PLR0917 - pytest passes them by name
    page, admin, service_url, user, profile, monkeypatch, capsys
):
    """In their order, in one namespace, with the names that the page leaves to the reader."""
    admin.execute("CREATE TABLE IF NOT EXISTS orders (profile_id uuid)")
    admin.execute("GRANT INSERT ON orders TO gristmill_service")
    world = Real()
    monkeypatch.setenv("GRISTMILL_URL", world.url)
    monkeypatch.setenv("GRISTMILL_API_KEY", world.keys["first"])
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", service_url)
    found = list(blocks(page))
    assert len(found) >= 3
    names = {"__name__": "example", "profile_id": world.profile(), "user_id": user}
    names |= {"secret": "whsec_" + "QUJD" * 10, "is_new": lambda _: True}
    made = _a_job(world)
    with working(world):
        for source in found:
            names["job_id"] = made
            if "sql.enqueue" in source:
                names["profile_id"] = profile
            exec(compile(source, f"{ROOT / page}", "exec"), names)  # noqa: S102 - our own page
    if "receive" in names:
        assert names["receive"]({}, b"{}") == 401
    if hasattr(names.get("client"), "close"):
        names["client"].close()
    world.close()
    admin.execute("DROP TABLE orders")
    assert "completed" in capsys.readouterr().out


def _a_job(world):
    with Client(world.url, world.keys["first"]) as client:
        payload = {"profile_id": world.profile(), "prompt": "Judge."}
        job: uuid.UUID = client.enqueue("scoring.score", payload, idempotency_key=None).id
        return job
