"""The package that a service installs: small, typed, and without a driver of its own."""

import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import gristmill_client


def test_it_is_the_installed_wheel():
    """Not the folder beside these tests."""
    assert Path(gristmill_client.__file__).is_relative_to(sys.prefix)
    assert (Path(gristmill_client.__file__).parent / "py.typed").exists()


def test_it_installs_one_package_that_needs_httpx2_and_pydantic():
    names = {name for name, owners in packages_distributions().items() if "gristmill-client" in owners}
    needs = {re.split("[^a-z0-9-]", one)[0] for one in distribution("gristmill-client").requires or ()}

    assert names == {"gristmill_client"}
    assert needs == {"httpx2", "pydantic"}


def test_it_imports_no_driver():
    """A service without SQLAlchemy or Django uses it too."""
    code = (
        "import sys, gristmill_client.sql.aio\n"
        "print([n for n in ('psycopg', 'sqlalchemy', 'django', 'httpx2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
