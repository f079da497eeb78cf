"""The command line as a person uses it: real processes in their own folder, one after the other.

The tests of this module share one system and run in the order of its life: up, work, down.
"""

import json
import os
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import redis

from local.embedded import EmbeddedServers
from local.supervision_status import read_status, stop_supervisor
from local.system import COMMAND
from workers.runtime.api_keys import is_api_key

pytestmark = pytest.mark.e2e

PATIENCE_SECONDS = 120
ROLES = {"worker-1", "dispatcher", "beat", "gateway", "flower"}
LATER = "2100-01-01"


@dataclass(slots=True)
class Shell:
    """A person's shell: a working folder, an environment, and the commands run there."""

    folder: Path
    env: dict[str, str] = field(repr=False)

    @property
    def data_dir(self) -> Path:
        return self.folder / ".gristmill"

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def says(self, *arguments: str) -> str:
        """Run a command that must succeed; return its output."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def tells(self, *arguments: str) -> Any:
        """Run a command with --json that must succeed; return the values."""
        return json.loads(self.says(*arguments, "--json"))

    def refuses(self, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command that must fail; return its exit code and its one line."""
        done = self.run(*arguments, env=env)
        (line,) = done.stderr.splitlines()
        assert "Traceback" not in done.stdout
        assert line.startswith("gristmill: ")
        return done.returncode, line.removeprefix("gristmill: ")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell in a folder with nothing but a package that has the name of one of ours and must not be imported."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "config").mkdir()
    (folder / "config" / "__init__.py").write_text("raise SystemExit('imported from the working folder')")
    ours = ("GRISTMILL_", "DATABASE_URL", "REDIS_URL", "OPENAI_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # each command would compile everything again
    shell = Shell(folder, env)
    yield shell
    if shell.data_dir.exists():
        stop_supervisor(shell.data_dir, timeout=timedelta(seconds=PATIENCE_SECONDS))
        EmbeddedServers(shell.data_dir).remove()


@pytest.fixture(scope="module")
def started(shell: Shell) -> str:
    """What `gristmill up --detach` printed."""
    return shell.says("up", "--detach", "--workers", "1")


@pytest.fixture(scope="module")
def running(shell: Shell, started: str) -> Shell:
    """The shell after `gristmill up --detach`."""
    assert started
    return shell


@pytest.fixture
def stopped(shell: Shell) -> Shell:
    """The shell while no system runs."""
    if shell.data_dir.exists():
        stop_supervisor(shell.data_dir, timeout=timedelta(seconds=PATIENCE_SECONDS))
    return shell


@pytest.fixture(scope="module")
def urls(running: Shell) -> dict[str, str]:
    """The URLs of the system with their passwords."""
    status = json.loads(running.says("status", "--json", "--show-secrets"))
    return {name: status[name] for name in ("database_url", "redis_url", "gateway_url", "flower_url")}


@pytest.fixture(scope="module")
def profile(urls: dict[str, str]) -> str:
    """The id of a profile to score."""
    return str(ask(urls, "INSERT INTO scoring.profiles (name) VALUES ('somebody') RETURNING id"))


def ask(urls: Mapping[str, str], statement: str) -> object:
    with psycopg.connect(urls["database_url"], autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def payload(profile: str, prompt: str = "Judge it.") -> str:
    return json.dumps({"profile_id": profile, "prompt": prompt})


def test_before_up_commands_say_what_to_do(shell: Shell) -> None:
    """The typical mistakes of a new user give one line each, and the exit code that scripts expect."""
    nothing = f"nothing runs in {shell.data_dir}, nor in the folders above; start it with `gristmill up`, "
    for command in (("jobs", "list"), ("status",)):
        code, line = shell.refuses(*command)
        assert (code, line.startswith(nothing)) == (1, True)
    code, line = shell.refuses("enqueue", "scoring.rescore", "--payload", "{}")
    assert (code, line.partition(": ")[0]) == (2, "stage 'scoring.rescore' is not registered; known stages")
    assert {"assessment.assess", "ingestion.ingest", "scoring.score"} <= set(line.partition(": ")[2].split(", "))


def test_up_in_the_background_runs_every_role_and_hides_passwords(running: Shell, urls: dict[str, str]) -> None:
    """`status` shows the whole system. It shows passwords only with --show-secrets."""
    status = running.tells("status")

    assert status["state"] == "running"
    assert {role["name"]: role["state"] for role in status["roles"]} == dict.fromkeys(ROLES, "running")
    assert ":***@" in status["database_url"]
    assert urls["database_url"].startswith("postgresql://gristmill:")
    assert "***" not in urls["database_url"] + urls["redis_url"]
    assert status["api_key"] == "***"
    code, line = running.refuses("up")
    assert (code, "already runs here" in line) == (1, True)


def test_up_makes_a_development_key(running: Shell, started: str, urls: dict[str, str]) -> None:
    """It is printed once and kept in the data folder, for its owner only; the database knows it. No log has it."""
    status = json.loads(running.says("status", "--json", "--show-secrets"))
    file = running.data_dir / "api_key"

    assert is_api_key(status["api_key"])
    assert f"API key   {status['api_key']} " in started
    assert file.read_text().strip() == status["api_key"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ask(urls, "SELECT name FROM runtime.api_keys") == "development"
    logs = "".join(log.read_text(errors="replace") for log in (running.data_dir / "logs").glob("*.log"))
    assert status["api_key"][8:] not in logs


def test_enqueue_waits_and_exits_with_the_result(running: Shell, urls: dict[str, str], profile: str) -> None:
    """The exit code is 0 for a completed job, else 1."""
    done = running.tells("enqueue", "scoring.score", "--payload", payload(profile), "--wait")
    with running.start("enqueue", "scoring.score", "--payload", payload(profile), "--at", LATER, "--wait") as given_up:
        assert given_up.stdout is not None
        running.says("jobs", "cancel", given_up.stdout.readline().strip())
        rest, _ = given_up.communicate(timeout=PATIENCE_SECONDS)

    assert (done["created"], done["job"]["status"]) == (True, "completed")
    assert given_up.returncode == 1
    assert "cancelled" in rest
    who = ask(urls, f"SELECT changed_by FROM runtime.transitions WHERE job_id = '{done['id']}' AND version_to = 1")
    assert str(who).startswith("cli:")


def test_doctor_finds_a_running_system_healthy(running: Shell) -> None:
    """Every check reports its result. The quick checks print nothing."""
    give_up = time.monotonic() + 60
    checks: dict[str, str] = {}
    while set(checks.values()) != {"ok"}:  # a role that has just started may not have reported itself or its provider
        assert time.monotonic() < give_up, checks
        told = json.loads(running.run("doctor", "--json").stdout)
        checks = {check["name"]: check["state"] for check in told["checks"]}

    assert checks.keys() >= {"Postgres", "schema", "clock", "dispatcher", "workers", "Redis", "eviction", "disk"}
    assert checks.keys() >= {"pgvector", "secrets", "provider"}
    quick = running.run("doctor", "--quick")
    assert (quick.returncode, quick.stdout, quick.stderr) == (0, "", "")


def test_bench_measures_the_system_and_leaves_no_row_of_its_own(
    running: Shell, urls: dict[str, str], profile: str
) -> None:
    """It prints figures of real jobs and deletes its own rows."""
    answers = ask(urls, "SELECT count(*) FROM llm.answers")

    measured = json.loads(running.says("bench", "--jobs", "100", "--seconds", "1", "--json"))

    assert measured["jobs"] == 100
    assert all(value > 0 for value in measured.values())
    assert ask(urls, "SELECT count(*) FROM scoring.profiles WHERE name LIKE 'load test %'") == 0
    assert ask(urls, f"SELECT count(*) FROM scoring.scoring_jobs WHERE profile_id <> '{profile}'") == 0
    assert ask(urls, "SELECT count(*) FROM llm.answers") == answers


def test_a_waiting_job_is_listed_explained_and_cancelled_once(running: Shell, profile: str) -> None:
    """An idempotency key gives the same job. A cancelled job stays cancelled."""
    arguments = ("enqueue", "scoring.score", "--payload", payload(profile), "--at", LATER, "--key", "once")
    job_id = running.says(*arguments)

    assert running.says(*arguments) == job_id
    (listed,) = running.tells("jobs", "list", "--status", "pending")
    assert (listed["id"], listed["wait_reason"], listed["idempotency_key"]) == (job_id, "due later", "once")
    assert running.says("jobs", "why", job_id).startswith("pending: due later")
    would = running.tells("jobs", "cancel", "--stage", "scoring.score", "--status", "pending", "--dry-run")
    assert would == {"dry_run": True, "cancelled": [job_id], "refused": {}}
    assert running.tells("jobs", "cancel", job_id)["cancelled"] == [job_id]
    assert running.refuses("jobs", "cancel", job_id) == (1, f"job {job_id} is cancelled already")


def test_failed_jobs_are_shown_with_their_history_and_retried(
    running: Shell, urls: dict[str, str], profile: str
) -> None:
    """A job enqueued in SQL that cannot succeed fails with its reason. A retry runs it again."""
    bad = "Criteria:\n- a (heavy): no number"
    job_id = str(ask(urls, f"SELECT scoring.enqueue_score('{profile}', E'{bad.encode('unicode_escape').decode()}')"))
    assert running.run("jobs", "watch", job_id).returncode == 1

    shown = running.tells("jobs", "show", job_id)
    retried = running.tells("jobs", "retry", "--status", "failed", "--error", "WEIGHT must")

    assert shown["job"]["status"] == "failed"
    assert shown["values"]["prompt"] == bad
    assert [step["new_state"] for step in shown["transitions"]] == ["pending", "processing", "failed"]
    assert retried["retried"] == [job_id]
    eventually(lambda: ask(urls, f"SELECT count(*) FROM runtime.transitions WHERE job_id = '{job_id}'") == 6)


def test_a_paused_stage_keeps_its_jobs_until_it_is_resumed(running: Shell, profile: str) -> None:
    """While the stage is paused nothing is dispatched, and the job says who paused it."""
    running.says("stages", "pause", "scoring.score")
    job_id = running.says("enqueue", "scoring.score", "--payload", payload(profile))

    (stage,) = [one for one in running.tells("stages") if one["stage"] == "scoring.score"]
    assert stage["ready"] == 1
    assert stage["paused_by"].startswith("cli:")
    running.says("stages", "resume", "scoring.score")
    assert running.says("jobs", "watch", job_id).splitlines()[-1].startswith("completed")


def test_workers_report_their_release_and_provider(running: Shell) -> None:
    """Each process is listed with its release and its provider. The doctor compares them with this shell."""
    eventually(lambda: all(one["provider"] for one in running.tells("workers")))
    found = running.tells("workers")

    assert found
    assert {(one["state"], one["provider"]["provider"]) for one in found} == {("running", "offline")}
    assert all(one["version"] and one["slots"] and one["queues"] for one in found)
    checks = {check["name"]: check for check in running.tells("doctor")["checks"]}
    assert {checks[name]["state"] for name in ("workers ask", "beat", "dispatcher", "workers")} == {"ok"}


def test_schedules_are_added_run_paused_and_removed(running: Shell, urls: dict[str, str], profile: str) -> None:
    """A schedule is checked completely when it is added. Running one now returns its job."""
    running.says(
        "schedules", "add", "nightly", "--cron", "0 3 * * *", "--stage", "scoring.score", "--payload", payload(profile)
    )
    rows = {row["name"]: row for row in running.tells("schedules", "list")}
    job_id = running.tells("schedules", "run", "nightly")["job_id"]

    assert rows.keys() >= {"nightly", "maintenance.prune"}
    assert rows["nightly"]["next_time"].endswith("T03:00:00+00:00")
    assert ask(urls, f"SELECT stage FROM runtime.jobs WHERE id = '{job_id}'") == "scoring.score"
    running.says("schedules", "pause", "nightly")
    assert ask(urls, "SELECT enabled FROM runtime.schedules WHERE name = 'nightly'") is False
    running.says("schedules", "remove", "nightly")
    assert ask(urls, "SELECT count(*) FROM runtime.schedules WHERE name = 'nightly'") == 0
    assert running.refuses("schedules", "add", "x", "--cron", "* * * * *", "--stage", "scoring.score") == (
        2,
        "payload: profile_id is required, got nothing",
    )


def test_the_gateway_is_ready_and_lets_in_nobody_without_a_key(urls: dict[str, str]) -> None:
    """It runs with its own login. Its description and its probes need no key."""
    with httpx2.Client(base_url=urls["gateway_url"]) as client:
        eventually(lambda: is_ready(client))

        assert client.get("/docs").status_code == 200
        assert "/v1/stages" in client.get("/openapi.json").json()["paths"]
        refused = client.get("/v1/stages", headers={"Authorization": "Bearer gm_nobody"})
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"


def test_flower_answers_this_machine_and_no_foreign_page(urls: dict[str, str]) -> None:
    """Its API works without a password on loopback, but not for another site in the operator's browser."""

    def answer(**headers: str) -> int:
        request = urllib.request.Request(f"{urls['flower_url']}/api/tasks", headers=headers)  # noqa: S310 - our own
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as got:  # noqa: S310 - our own
                return int(got.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    assert answer() == 200
    assert answer(Origin="http://evil.example") == 403


def test_a_role_refuses_a_redis_that_may_evict(running: Shell, urls: dict[str, str]) -> None:
    """A queue is one key, so an eviction would lose all its messages."""
    with redis.Redis.from_url(urls["redis_url"]) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            code, line = running.refuses("worker", env=as_settings(urls))
        finally:
            client.config_set("maxmemory-policy", "noeviction")

    assert code == 1
    assert line.startswith("Redis maxmemory-policy must be noeviction")


def test_a_role_waits_until_the_database_is_migrated(running: Shell, urls: dict[str, str], tmp_path: Path) -> None:
    """A role that starts too early does not crash. It says what it waits for and starts when the schema is there."""
    with psycopg.connect(urls["database_url"], autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    env = as_settings({**urls, "database_url": urls["database_url"].rsplit("/", 1)[0] + "/empty"})
    log = tmp_path / "beat.log"
    with log.open("w") as file:
        beat = subprocess.Popen([*COMMAND, "beat"], cwd=running.folder, env={**running.env, **env}, stderr=file)
    with beat:
        try:
            eventually(lambda: "run `gristmill migrate`" in log.read_text())
            assert running.run("migrate", env=env).stdout.startswith("migrated from an empty database")
            eventually(lambda: "beat_ready" in log.read_text())
        finally:
            beat.terminate()


def test_the_recorded_history_is_lawful(running: Shell) -> None:
    """No job of this module ended more often than it may, and versions have no gaps."""
    verdict = running.tells("jobs", "verify")

    assert (verdict["ok"], verdict["violations"]) == (True, 0)
    (stage,) = verdict["stages"]
    assert stage["jobs"] >= 1
    assert stage["reopened"] == 1
    assert stage["ends"] - stage["reopened"] == stage["completed"] + stage["failed"] + stage["cancelled"]


def test_logs_show_what_the_roles_wrote(running: Shell) -> None:
    """It shows the last lines of each role, of one, or of all workers. Only the owner may read the logs."""
    eventually(lambda: {one["role"] for one in running.tells("logs")} >= ROLES | {"postgres", "valkey"})

    assert {one["role"] for one in running.tells("logs", "worker", "--lines", "3")} == {"worker-1"}
    assert len(running.says("logs", "postgres", "--lines", "2").splitlines()) == 2
    assert running.refuses("logs", "nobody")[0] == 2
    assert {path.stat().st_mode & 0o777 for path in (running.data_dir / "logs").iterdir()} == {0o600}


def test_a_system_of_a_folder_above_is_used_and_not_stopped(running: Shell) -> None:
    """Commands work in every folder of a clone. Only `down` must be told which system to stop."""
    (running.folder / "below").mkdir()
    below = Shell(running.folder / "below", running.env)

    found = below.run("jobs", "list", "--limit", "1")
    code, line = below.refuses("down")

    assert (found.returncode, found.stderr.splitlines()[0]) == (
        0,
        f"using the system that runs in {running.data_dir}",
    )
    assert (code, f"GRISTMILL_DATA_DIR={running.data_dir} gristmill down" in line) == (1, True)
    assert is_running(running)


def test_down_leaves_nothing_running(running: Shell) -> None:
    """Roles and servers end. A second `down` has nothing to do."""
    status = read_status(running.data_dir)
    assert status
    pids = [role.pid for role in status.roles if role.pid]

    assert running.says("down") == "stopped"

    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert json.loads(running.run("status", "--json").stdout)["state"] == "stopped"


def test_ctrl_c_drains_an_attached_up(stopped: Shell) -> None:
    """The signal ends everything in order, with exit code 0."""
    with stopped.start("up", "--workers", "1") as up:
        try:
            eventually(lambda: is_running(stopped))
        finally:
            up.send_signal(signal.SIGINT)
        said, _ = up.communicate(timeout=PATIENCE_SECONDS)

    assert up.returncode == 0
    assert "Flower    http://127.0.0.1:" in said
    assert said.splitlines()[-1] == "stopped"
    assert read_status(stopped.data_dir) is None


def test_a_bad_profile_is_named_before_anything_starts(stopped: Shell, tmp_path: Path) -> None:
    """One line has file, line, field and rule. Nothing is started or written."""
    file = tmp_path / "people.csv"
    file.write_text("name,about\nA,x\n,y\n")

    code, line = stopped.refuses("demo", "--profiles", str(file))

    assert code == 2
    assert line == f"{file}, line 3: field 'name' must be a text that is not empty"
    assert read_status(stopped.data_dir) is None


def eventually(condition: Callable[[], bool]) -> None:
    """Poll ``condition`` until it holds; fail the test if that takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


def is_ready(client: httpx2.Client) -> bool:
    try:
        return bool(client.get("/readyz").status_code == 200)
    except httpx2.ConnectError:
        return False


def as_settings(urls: Mapping[str, str]) -> dict[str, str]:
    return {"DATABASE_URL": urls["database_url"], "REDIS_URL": urls["redis_url"]}


def is_running(shell: Shell) -> bool:
    status = read_status(shell.data_dir)
    return status is not None and status.state == "running"
