"""`docs/new-domain.md` works as written: its files in a copy of our packages, and its commands."""

import json
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from local.embedded import EmbeddedServers
from local.supervision_status import stop_supervisor
from migrations.revisions import revisions
from tests.support.copied_tree import CopiedTree, copy_tree
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e
T = TypeVar("T")

# test_domain_package.py tests the rest of the page.
PAGE = (ROOT / "docs" / "new-domain.md").read_text(encoding="utf-8").partition("\n## A domain in a repository of")[0]
REVISION, WAITS_REVISION = "migrations/versions/0100_review.py", "migrations/versions/0101_reply.py"
CHECK = """
import sys
from alembic import command
from alembic.config import Config
config = Config()
config.set_main_option("script_location", "migrations")
config.attributes["url"] = sys.argv[1]
command.check(config)
command.downgrade(config, sys.argv[2])
command.upgrade(config, "head")
"""


# Approves the waiting reply with the page's use-case, like a door.
APPROVE = """
import asyncio, sys
from uuid import UUID
from workers.reply.decide_reply import decide_reply
from workers.runtime.actor import Actor
from workers.runtime.database import Database

async def main(url, job_id, version):
    database = Database(url, changed_by="door")
    async with database.session() as session:
        actor = Actor(changed_by="ada")
        await decide_reply(session, UUID(job_id), int(version), approve=True, reason="polite", actor=actor)
    await database.close()

asyncio.run(main(*sys.argv[1:]))
"""


def files() -> dict[str, str]:
    """Return the page's files. Each block of Python starts with a comment that has the file's name."""
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.count("```python")
    return {name: code.replace("NEWEST", revisions()[-1]) for name, code in blocks}


def commands() -> list[str]:
    """Return the page's commands, one per line."""
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


@pytest.fixture
def tree(tmp_path: Path) -> CopiedTree:
    """The packages in their own folder."""
    return copy_tree(tmp_path / "clone")


@pytest.fixture
def page(tree: CopiedTree) -> Iterator[CopiedTree]:
    """The packages with the page's files, and `gristmill` on the path."""
    for name, code in files().items():
        tree.write(name, code)
    program = tree.folder / "bin" / "gristmill"
    tree.write("bin/gristmill", f'#!/bin/sh\nexec {sys.executable} -P -m cli.main "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    yield tree
    data_dir = tree.folder / ".gristmill"
    if data_dir.exists():
        stop_supervisor(data_dir, timeout=timedelta(seconds=60))
        EmbeddedServers(data_dir).remove()


def run(page: CopiedTree, command: str) -> str:
    """Run a command of the page; return its output."""
    done = page.shell(command, env={"PATH": f"{page.folder / 'bin'}:{page.environment()['PATH']}"})
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def check_reply(page: CopiedTree) -> None:
    """Fail unless a reply waits for its approval, as the page says, and is published after it."""
    job_id = run(page, 'gristmill enqueue reply.draft --payload \'{"review": "It leaks."}\'').split()[0]

    def job() -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(run(page, f"gristmill jobs show {job_id} --json"))
        return shown

    waits = poll(lambda: found if (found := job())["job"]["status"] == "awaiting_approval" else None)
    assert run(page, f"gristmill jobs why {job_id}").count("waiting for an approval of the shop until ") == 1
    assert job_id in run(page, "gristmill jobs list --status waiting")
    url = json.loads(run(page, "gristmill status --json --show-secrets"))["database_url"]
    approved = page.python("-c", APPROVE, url, job_id, str(waits["job"]["version"]))
    assert approved.returncode == 0, approved.stderr
    late = page.python("-c", APPROVE, url, job_id, str(waits["job"]["version"]))

    published = poll(lambda: found if (found := job())["job"]["status"] == "published" else None)
    [decision] = [one for one in published["transitions"] if one["change_action"] == "decide"]
    assert (decision["changed_by"], decision["change_reason"]) == ("ada", "polite")
    assert "does not wait for a decision any more" in late.stderr


def poll(look: Callable[[], T | None], *, seconds: float = 60.0) -> T:
    """Call ``look`` until it finds something; return that."""
    give_up = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < give_up
        time.sleep(0.2)
    return found


def test_a_job_of_the_new_kind_runs_to_its_end(page: CopiedTree) -> None:
    """Only the page's commands are needed. There is no provider; servers and workers are real."""
    said = {}
    for command in commands():
        if command == "gristmill down":
            check_reply(page)
        said[command.split()[1]] = run(page, command)

    assert list(said) == ["up", "enqueue", "jobs", "down"]
    job_id = said["enqueue"].split()[0]
    [row] = [line for line in said["jobs"].splitlines() if line.startswith(job_id)]
    assert row.split()[1:3] == ["review.read", "completed"]


def test_model_and_revision_of_the_page_agree(page: CopiedTree, empty_database_url: str) -> None:
    """The revision makes what the model declares, and runs down and up again."""
    url = {"DATABASE_URL": empty_database_url}
    migrated = page.run("migrate", "--json", env=url)
    assert json.loads(migrated.stdout)["after"] == "0101", migrated.stderr

    checked = page.python("-c", CHECK, empty_database_url, revisions()[-1])

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            ('    op.execute("CREATE SCHEMA review")\n', ""),
            'Postgres refused: schema "review" does not exist; a revision creates its schema first: op.execute("CREATE',
        ),
        (
            ('"text", sa.Text', '"tekst", sa.Text'),
            'Postgres refused: column "text" of relation "review_jobs" does not exist',
        ),
        (("sa.Uuid, nullable", "sa.Uid, nullable"), "AttributeError: module 'sqlalchemy' has no attribute 'Uid'"),
        (("def downgrade() -> None:", "def downgrade() -> None"), "SyntaxError: expected ':'"),
        (
            ("Step, attach_lifecycle,", "Step, atach_lifecycle,"),
            "ImportError: cannot import name 'atach_lifecycle' from 'migrations.kernel.v4'",
        ),
    ],
    ids=["no schema", "no column", "no attribute", "no syntax", "no name"],
)
def test_migrate_names_the_line_of_a_revision_that_fails(page: CopiedTree, empty_database_url, wrong, told) -> None:
    """The message has the real error and its place. It never advises to run the command that just failed."""
    code = files()[REVISION]
    page.write(REVISION, code.replace(*wrong))

    done = page.run("migrate", env={"DATABASE_URL": empty_database_url})

    assert done.returncode == 1
    assert re.match(rf"gristmill: {re.escape(REVISION)}, line \d+: {re.escape(told)}", done.stderr), done.stderr
    assert "run `gristmill migrate`" not in done.stderr


def test_migrate_names_the_line_of_a_model_that_cannot_be_loaded(page: CopiedTree, empty_database_url: str) -> None:
    """Alembic reads the models, so a mistake in a model is reported with its line, not as an unexpected error."""
    page.write("models/review.py", files()["models/review.py"].replace("from uuid import UUID\n", ""))

    done = page.run("migrate", env={"DATABASE_URL": empty_database_url})

    assert done.returncode == 1
    assert re.match(r"gristmill: models/review.py, line \d+: .*UUID", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('down_revision = "0099"', r"revision 0100_review.py comes after '0099', which is no revision"),
        ('down_revision = "0001"', r"revisions 0002_scoring.py and 0100_review.py both come after 0001: "),
        ("", r'revision file 0100_review.py must have a line such as down_revision = "0001"'),
    ],
)
def test_a_revision_outside_the_line_is_named(page: CopiedTree, empty_database_url, line: str, told: str) -> None:
    """Otherwise it would be ignored silently, and its table would be missing."""
    page.write(REVISION, re.sub(r"^down_revision = .*$", line, files()[REVISION], flags=re.MULTILINE))

    done = page.run("migrate", env={"DATABASE_URL": empty_database_url})

    assert done.returncode == 1
    assert done.stderr.startswith(f"gristmill: {told}"), done.stderr


def test_without_the_migration_a_command_says_what_is_missing(page: CopiedTree, empty_database_url: str) -> None:
    """The message also says what to do if migrating does not help."""
    for revision in (REVISION, WAITS_REVISION):
        (page.folder / revision).unlink()
    page.run("migrate", env={"DATABASE_URL": empty_database_url})
    payload = json.dumps({"author_id": "018f3a52-7c1e-7000-8000-000000000001", "text": "x"})

    done = page.run("enqueue", "review.read", "--payload", payload, env={"DATABASE_URL": empty_database_url})

    assert done.returncode == 1
    assert 'relation "review.review_jobs" does not exist' in done.stderr
    assert "If it has the newest revision, something of it is missing" in done.stderr
