"""`gristmill psql`: starts the real psql, with the password in its environment."""

import os
import shutil
import subprocess
import sys

import pytest

from local.logins import address_and_password, make_logins

needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")


def run(database_url: str, folder, *arguments: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DATABASE_URL": database_url, "GRISTMILL_DATA_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "psql", *arguments],
        env=environment | ({"PATH": path} if path is not None else {}),
        input="SELECT 'user:' || session_user;\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@needs_psql
def test_it_connects_as_the_owner_or_by_a_login(database_url, tmp_path):
    """Psql does not ask for a password."""
    make_logins(database_url, tmp_path / "roles", new_passwords=True)

    assert "user:gristmill\n" in run(database_url, tmp_path).stdout
    assert "user:gristmill_service_login" in run(database_url, tmp_path, "--as", "service").stdout


def test_what_is_missing_is_said(database_url, tmp_path):
    """An unknown kind, a login without a file, and a machine without psql."""
    assert "--as must be one of worker" in run(database_url, tmp_path, "--as", "nobody").stderr
    assert "`gristmill migrate --roles` makes them" in run(database_url, tmp_path, "--as", "worker").stderr
    assert "postgresql-client" in run(database_url, tmp_path, path=str(tmp_path)).stderr


def test_a_password_is_no_part_of_the_address():
    """Every user of the machine can read command lines."""
    address, password = address_and_password("postgresql://me:s%40cret@host:1/db?sslmode=require")

    assert (address, password) == ("postgresql://me@host:1/db?sslmode=require", "s@cret")
