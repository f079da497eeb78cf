"""Packages with a domain are migrated and checked; errors in them are refused with their place."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support.copied_tree import OURS
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "tickets" / "gristmill_tickets"
ENQUEUE = ("enqueue", "tickets.triage", "--payload", '{"text": "The shop is down"}')
HANDLERS, TABLES = [ENQUEUE], [ENQUEUE, ("migrate",)]


@dataclass(frozen=True)
class Packages:
    """A folder of installed packages, and a database."""

    folder: Path
    url: str

    def add(self, name: str = "tickets", package: str = "gristmill_tickets", *, of: str | None = None) -> None:
        """Install a copy of the example as ``package``, or only name it if ``of`` says by which distribution."""
        if of is None:
            shutil.copytree(EXAMPLE, self.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
            self.edit("gristmill_tickets", package, package=package)
        distribution = of or package.replace("_", "-")
        info = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gristmill.domains]\n{name} = {package}\n")

    def edit(self, old: str, new: str, *, package: str = "gristmill_tickets", file: str = "**/*.py") -> None:
        for path in (self.folder / package).glob(file):
            path.write_text(path.read_text().replace(old, new))

    def remove(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one command of gristmill with these packages installed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "PYTHON"))}
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=ROOT,
            env={**inherited, "PYTHONPATH": str(self.folder), "DATABASE_URL": self.url, "REDIS_URL": "redis://nowhere"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def error_line(self, *arguments: str) -> str:
        """Return the one line of a command that must fail."""
        done = self.run(*arguments)
        assert done.returncode in {1, 2}, done.stdout
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()


@pytest.fixture
def packages(tmp_path: Path, empty_database_url: str) -> Packages:
    """No package yet."""
    (tmp_path / "site").mkdir()
    return Packages(tmp_path / "site", empty_database_url)


def schema_exists(packages: Packages, name: str) -> bool:
    with psycopg.connect(packages.url) as connection:
        return connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (name,)).fetchone() == (True,)


def test_migrate_moves_a_domain_after_gristmill_and_down_again(packages):
    """The domain has its own history; that of gristmill does not change."""
    packages.add()

    up = json.loads(packages.run("migrate", "--json").stdout)
    down = packages.run("migrate", "--to", "tickets@base")

    assert up["after"] == up["head"]
    assert up["domains"] == [{"name": "tickets", "before": None, "after": "0001", "head": "0001"}]
    assert down.stdout == "domain 'tickets' migrated from 0001 to base\n"
    assert not schema_exists(packages, "tickets")
    told = [f"already at {up['head']}", "domain 'tickets' migrated from no revision to 0001"]
    assert packages.run("migrate").stdout.splitlines() == told


def test_roles_may_read_where_a_domain_stands(packages):
    """Each role reads it at its start."""
    packages.add()
    packages.run("migrate")

    with psycopg.connect(packages.url) as connection:
        for role in ("gristmill_worker", "gristmill_dispatcher", "gristmill_gateway"):
            connection.execute(f"SET ROLE {role}")
            assert connection.execute("SELECT version_num FROM public.alembic_version_tickets").fetchone() == ("0001",)


def test_a_role_waits_for_the_tables_of_a_domain(packages):
    """The database is migrated, the domain is not. No role starts on missing tables."""
    packages.run("migrate")
    packages.add()
    code = (
        "import asyncio, sys; from cli.readiness import wait_for_database\n"
        "try: asyncio.run(asyncio.wait_for(wait_for_database(sys.argv[1]), 3))\n"
        "except TimeoutError: print('waits')"
    )
    env = {**os.environ, "PYTHONPATH": str(packages.folder)}

    def look() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, packages.url], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    before = look()
    packages.run("migrate")

    assert "waits" in before
    assert "domain 'tickets' is at no revision, its package needs 0001: run `gristmill migrate`" in before
    assert look() == ""


def test_gristmill_keeps_the_kernel_of_a_domain(packages):
    """A migration down would remove the triggers of its tables."""
    packages.add()
    packages.run("migrate")

    refusals = {packages.error_line("migrate", "--to", to) for to in ("base", "0012")}
    packages.remove()

    [refusal] = refusals
    assert refusal.startswith("gristmill: domain 'tickets' stands at 0001 and needs revision 0013: migrate it down")
    assert refusal.endswith("`gristmill migrate --to tickets@base`")
    assert packages.run("migrate", "--to", "0013").returncode == 0
    assert packages.error_line("migrate", "--to", "0012") in refusals


def test_doctor_shows_a_domain_that_is_not_migrated_and_one_without_a_package(packages):
    """Each check has its remedy."""
    packages.run("migrate")
    packages.add()
    before = packages.run("doctor").stdout
    packages.run("migrate")
    after = packages.run("doctor").stdout
    packages.remove()
    gone = packages.run("doctor").stdout

    assert re.search("schema of tickets +not migrated", before)
    assert "at 0001, newest is 0001" in after
    assert "at 0001, but no installed package brings it" in gone


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("nobody@head", "domain 'nobody' is not installed; installed domains: tickets"),
        ("tickets@7", "revision '7' of domain 'tickets' is not there; revisions: 0001, head, base"),
    ],
)
def test_a_domain_or_revision_that_is_not_there_is_refused(packages, to: str, told: str):
    """The line names the known ones."""
    packages.add()

    assert packages.error_line("migrate", "--to", to) == f"gristmill: {told}"


def second_stage(packages: Packages) -> None:
    """A second package with a table of its own and the first one's stage."""
    packages.add()
    packages.add("others", "others")
    packages.edit('"tickets"}', '"others"}', package="others", file="models.py")


def second_schema(packages: Packages) -> None:
    packages.add()
    packages.add("others", "others")
    packages.edit("ticket_jobs", "other_jobs", package="others")
    packages.edit("tickets.triage", "others.triage", package="others")


def our_schema(packages: Packages) -> None:
    packages.add()
    packages.edit('"tickets"}', '"scoring"}', file="models.py")


def no_schema(packages: Packages) -> None:
    packages.add()
    packages.edit('{"schema": "tickets"}', "{}", file="models.py")


def second_name(packages: Packages) -> None:
    packages.add()
    packages.add("tickets", "others")


def no_package(packages: Packages) -> None:
    packages.add("tickets", "gristmill_tikets", of="gristmill-tickets")


def odd_name(packages: Packages) -> None:
    packages.add("my-tickets")


def broken_handler(packages: Packages) -> None:
    packages.add()
    packages.edit("import stage\n", "import stages\n", file="handlers.py")


def broken_model(packages: Packages) -> None:
    packages.add()
    packages.edit("import Text\n", "import Txt\n", file="models.py")


@pytest.mark.parametrize(
    ("arrange", "told", "commands"),
    [
        (
            second_stage,
            "gristmill_tickets/handlers.py, line 29: ValueError: stage 'tickets.triage' is registered twice",
            HANDLERS,
        ),
        (second_schema, "schema 'tickets' belongs to domain 'others' of others: choose another name", TABLES),
        (our_schema, "domain 'tickets' of gristmill-tickets: schema 'scoring' belongs to gristmill: choose", TABLES),
        (no_schema, "domain 'tickets' of gristmill-tickets: table 'ticket_jobs' must have a schema of the", TABLES),
        (second_name, "domain 'tickets' of others: is also brought by gristmill-tickets: uninstall one", TABLES),
        (no_package, "names 'gristmill_tikets' as its package, which does not exist", TABLES),
        (odd_name, "domain 'my-tickets' of gristmill-tickets: must have a name of at most 40 small letters", TABLES),
        (broken_handler, "gristmill_tickets/handlers.py, line 12: ImportError: cannot import name 'stages'", HANDLERS),
        (broken_model, "gristmill_tickets/models.py, line 6: ImportError: cannot import name 'Txt'", TABLES),
    ],
)
def test_what_is_wrong_with_a_package_is_told_in_one_line(
    packages, arrange: Callable[[Packages], None], told: str, commands: list[tuple[str, ...]]
):
    """Every command that loads handlers prints it, as each role does at its start; migrate prints errors of tables."""
    arrange(packages)

    for command in commands:
        assert told in packages.error_line(*command)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ('op.execute("CREATE SCHEMA tickets")', "pass"),
            '0001_tickets.py, line 28: Postgres refused: schema "tickets"',
        ),
        (('revision = "0001"', ""), "revision file 0001_tickets.py of domain 'tickets' of gristmill-tickets must have"),
        (
            ("down_revision = None", 'down_revision = "0014"'),
            "0001_tickets.py of domain 'tickets' of gristmill-tickets",
        ),
    ],
)
def test_migrate_names_the_revision_of_a_package_that_fails(packages, change: tuple[str, str], told: str):
    """The error names the file, and the line if Postgres refused it."""
    packages.add()
    packages.edit(*change, file="migrations/*.py")

    assert told in packages.error_line("migrate")
