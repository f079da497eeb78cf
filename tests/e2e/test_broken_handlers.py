"""If a handler cannot be loaded, roles stop at once and name it. Nothing restarts again and again."""

import json
from pathlib import Path

import pytest

from tests.support.copied_tree import CopiedTree, copy_tree

pytestmark = pytest.mark.e2e

FILE = "workers/review/read_review.py"
MESSAGE = f"handlers cannot be loaded: {FILE}, line 3: ModuleNotFoundError: No module named 'there_is_none'"
# No server listens there: the message must not wait for a server.
NOWHERE = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> CopiedTree:
    """The packages with one more domain, which imports a missing module."""
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    tree.write("workers/review/__init__.py", "")
    tree.write(FILE, "import json\n\nimport there_is_none\n")
    return tree


@pytest.mark.parametrize(
    "command",
    [("worker",), ("dispatcher",), ("beat",), ("flower",), ("enqueue", "scoring.score", "--payload", "{}")],
    ids=lambda command: command[0],
)
def test_each_role_and_enqueue_name_the_file_and_the_line(broken: CopiedTree, command: tuple[str, ...]) -> None:
    """They print one line and exit with 1 before any connection to a server."""
    done = broken.run(*command, env=NOWHERE)

    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, f"gristmill: {MESSAGE}")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("how", [(), ("--detach",)], ids=["attached", "detached"])
def test_up_says_it_once_and_starts_nothing(broken: CopiedTree, tmp_path: Path, how: tuple[str, ...]) -> None:
    """No role is restarted for an error that a restart cannot fix, and no server is started."""
    data = tmp_path / "data"

    done = broken.run("up", *how, env={"GRISTMILL_DATA_DIR": str(data)})

    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, f"gristmill: {MESSAGE}")
    assert not (data / "servers").exists()


def test_doctor_lists_it_among_its_checks(broken: CopiedTree, tmp_path: Path) -> None:
    """The checks of `gristmill doctor` name the file too."""
    done = broken.run("doctor", "--json", env={"GRISTMILL_DATA_DIR": str(tmp_path / "data")})

    [check] = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "handlers"]
    assert (done.returncode, check["state"], check["found"]) == (1, "failed", MESSAGE)
