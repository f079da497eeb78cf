"""The import contracts hold, each one fails if it is broken, and they apply to new rooms."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import config
from tests.support.paths import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

# The smallest set of packages that the contracts allow, with one domain that they do not name.
HOUSE = {
    "cli/__init__.py": "import config, gateway, local, migrations, workers.transport",
    "config/__init__.py": "",
    "gateway/__init__.py": "import fastapi, models, starlette, uvicorn, workers.runtime.operate",
    "gristmill_testing/__init__.py": "import local, migrations, workers.runtime.worker",
    "local/__init__.py": "import config, migrations, workers.runtime",
    "migrations/__init__.py": "",
    "migrations/env.py": "import config, models",
    "migrations/versions/__init__.py": "",
    "migrations/versions/0001_first.py": "import migrations",
    "models/__init__.py": "",
    "workers/__init__.py": "",
    "workers/llm/__init__.py": "import openai, workers.runtime",
    "workers/runtime/__init__.py": "import models",
    "workers/runtime/backoff.py": "",
    "workers/runtime/actor_signature.py": "",
    "workers/runtime/beat/__init__.py": "",
    "workers/runtime/bounds.py": "",
    "workers/runtime/connections.py": "",
    "workers/runtime/dispatch/__init__.py": "import workers.runtime.store",
    "workers/runtime/enqueue_validation.py": "",
    "workers/runtime/failpoints.py": "",
    "workers/runtime/handler/__init__.py": "",
    "workers/runtime/loaders.py": "",
    "workers/runtime/operate/__init__.py": "import workers.runtime.store",
    "workers/runtime/store/__init__.py": "",
    "workers/runtime/undecodable.py": "",
    "workers/runtime/worker/__init__.py": "import workers.runtime.store",
    "workers/judging/__init__.py": "import workers.runtime.handler",
    "workers/longrun/__init__.py": "import workers.runtime.backoff, workers.runtime.handler",
    "workers/approvals/__init__.py": "import workers.outbound, workers.runtime.store",
    "workers/outbound/__init__.py": "import workers.runtime",
    "workers/brewing/__init__.py": "import models, workers.judging, workers.longrun, workers.runtime.handler",
    "workers/scoring/__init__.py": "import models, workers.runtime",
    "workers/transport/__init__.py": "import celery, kombu",
    "workers/transport/app.py": "import config, workers.llm, workers.runtime, workers.scoring",
}
VIOLATIONS = [
    ("layers", "models/job.py", "import workers.runtime"),
    ("layers", "workers/runtime/store/rows.py", "import cli"),
    ("layers", "local/up.py", "import gateway"),
    ("layers", "local/up.py", "import gristmill_testing"),
    ("layers", "workers/judging/ask.py", "import workers.longrun"),
    ("layers", "workers/outbound/mail.py", "import workers.approvals"),
    ("layers", "workers/runtime/store/rows.py", "import workers.longrun"),
    ("rooms", "workers/brewing/brew.py", "import workers.scoring"),
    ("rooms", "workers/brewing/brew.py", "import workers.llm"),
    ("rooms", "workers/runtime/store/rows.py", "import workers.transport"),
    ("rooms", "workers/llm/provider.py", "import workers.scoring"),
    ("kernel", "workers/brewing/brew.py", "import workers.runtime.store"),
    ("kernel", "workers/brewing/brew.py", "import workers.runtime.bounds"),
    ("kernel", "workers/judging/ask.py", "import workers.runtime.operate"),
    ("waits", "workers/brewing/brew.py", "from workers.runtime.backoff import full_jitter"),
    ("waits", "workers/judging/ask.py", "from workers.runtime.failpoints import failpoint"),
    ("kernel", "workers/outbound/mail.py", "import workers.runtime.store"),
    ("gateway", "gateway/enqueue.py", "import workers.transport"),
    ("config", "workers/brewing/brew.py", "from config import settings"),
    ("config", "workers/runtime/store/rows.py", "import config"),
    ("config-alone", "config/settings.py", "import models"),
    ("config-alone", "config/settings.py", "import local"),
    ("models-alone", "models/job.py", "import config"),
    ("migrations", "models/job.py", "import migrations"),
    ("revisions", "migrations/versions/0002_next.py", "import models"),
    ("celery", "cli/worker.py", "import celery"),
    ("celery", "workers/runtime/store/rows.py", "from kombu import Queue"),
    ("openai", "workers/brewing/brew.py", "import openai"),
    ("fastapi", "cli/gateway.py", "import fastapi"),
    ("fastapi", "workers/runtime/store/rows.py", "from starlette.requests import Request"),
    ("circles", "workers/runtime/store/rows.py", "import workers.runtime.operate"),
    ("doors", "cli/jobs.py", "import workers.runtime.store"),
    ("doors", "cli/jobs.py", "import sqlalchemy"),
    ("doors", "cli/jobs.py", "from psycopg import errors"),
]


def lint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the contracts of pyproject.toml on the packages in ``folder``."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def house(tmp_path):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for name, text in HOUSE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_our_rooms_keep_every_contract():
    """This runs the contracts on our code."""
    run = lint(ROOT)

    assert run.returncode == 0, run.stdout + run.stderr


def test_an_allowed_house_keeps_every_contract(house):
    """The contracts allow everything that the architecture allows, and need no change for a new domain."""
    run = lint(house)

    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("contract", "file", "violation"), VIOLATIONS)
def test_a_planted_violation_breaks_its_contract(house, contract, file, violation):
    """A contract that never fails protects nothing."""
    (house / file).write_text(violation)

    run = lint(house, "--contract", contract)

    assert run.returncode == 1, run.stdout + run.stderr
    assert "0 kept, 1 broken" in run.stdout


def test_every_contract_has_a_violation_planted():
    """A new contract needs a violation here too."""
    assert {contract["id"] for contract in CONTRACTS} == {contract for contract, _, _ in VIOLATIONS}


def test_our_packages_are_the_ones_imported():
    """No installed package of the same name hides ours, although site-packages is first on the path."""
    assert Path(config.__file__).parents[1] == ROOT
