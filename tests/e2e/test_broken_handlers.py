"""A handler that cannot be loaded stops what would run it, at once and by name; nothing restarts in a circle."""

import json
from pathlib import Path

import pytest

from tests.support.copied_tree import CopiedTree, copy_tree

pytestmark = pytest.mark.e2e

FILE = "workers/review/read_review.py"
TOLD = f"handlers cannot be loaded: {FILE}, line 3: ModuleNotFoundError: No module named 'there_is_none'"
# Nobody listens there: what is told must not wait for a server.
NOWHERE = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> CopiedTree:
    """The packages with one more domain, which imports what is not installed."""
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
    """One line, exit code 1, before any server is asked."""
    done = broken.run(*command, env=NOWHERE)

    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, f"gristmill: {TOLD}")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("how", [(), ("--detach",)], ids=["attached", "detached"])
def test_up_says_it_once_and_starts_nothing(broken: CopiedTree, tmp_path: Path, how: tuple[str, ...]) -> None:
    """No role is started again and again for a fault that no restart mends, and no server for nothing."""
    data = tmp_path / "data"

    done = broken.run("up", *how, env={"GRISTMILL_DATA_DIR": str(data)})

    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, f"gristmill: {TOLD}")
    assert not (data / "servers").exists()


def test_doctor_lists_it_among_its_checks(broken: CopiedTree, tmp_path: Path) -> None:
    """Whoever asks what is wrong with a system finds the file too."""
    done = broken.run("doctor", "--json", env={"GRISTMILL_DATA_DIR": str(tmp_path / "data")})

    [check] = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "handlers"]
    assert (done.returncode, check["state"], check["found"]) == (1, "failed", TOLD)
