"""docker-compose.yml and Dockerfile are valid, and every command, variable, secret and queue in them exists.

No container engine is needed: the tests read the files and compare them with the command line and the settings.
"""

import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url
from typer.core import TyperGroup
from typer.main import get_command

from config.celery import SYSTEM_QUEUE
from config.settings import Settings, list_settings
from tests.support.paths import ROOT
from workers.runtime.handler.registry import discover
from workers.runtime.operate.logins import GROUPS

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ROLES = {name: service for name, service in SERVICES.items() if service["image"] == "gristmill"}
DEFAULTS = {row.variable: row.default for row in list_settings(Settings.model_construct())}
EXIT_SECONDS = 5  # a worker ends within this time after its grace
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "packages"
]

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_role = pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)


def seconds(duration: str) -> float:
    return sum(int(n) * {"s": 1, "m": 60, "h": 3600}[unit] for n, unit in re.findall(r"(\d+)([smh])", duration))


def mounted(service: dict[str, Any]) -> dict[str, str]:
    """Return the secrets of a service, by the names of their files in its container."""
    pairs = [(one, one) if isinstance(one, str) else (one["target"], one["source"]) for one in service["secrets"]]
    return dict(pairs)


def make_secrets(folder: Path) -> None:
    subprocess.run(["make", "-f", ROOT / "Makefile", "secrets"], cwd=folder, check=True, capture_output=True)


def is_valid_command(arguments: list[str]) -> bool:
    """Return whether `gristmill` has this command and these options; raise its error message if not."""
    from cli.main import app

    program, name, *options = arguments
    assert program == "gristmill"
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    with group.make_context(program, [name], resilient_parsing=True) as context:
        command = group.get_command(context, name)
        assert command, f"`gristmill {name}` does not exist"
        with command.make_context(name, options, parent=context):
            return True


def test_file_follows_the_compose_specification():
    """Any implementation of Compose can read the file."""
    tool = str(Path(sys.executable).with_name("check-jsonschema"))
    run = subprocess.run(
        [tool, "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr


def test_every_role_of_the_house_is_there():
    """Every role of the system runs. Dispatcher and beat run twice, so that one of each may fail."""
    roles = {service["command"][1] for service in ROLES.values()}

    assert roles == {"migrate", "worker", "dispatcher", "beat", "gateway", "flower"}
    assert {name: SERVICES[name]["deploy"]["replicas"] for name in ("dispatcher", "beat")} == {
        "dispatcher": 2,
        "beat": 2,
    }


@each_role
def test_commands_exist(role):
    """A renamed command fails here, not in a container that restarts without end."""
    assert is_valid_command(role["command"])


@each_role
def test_health_checks_exist(role):
    """The health check of a role is a command that exists. A service that runs once needs none."""
    check = role["healthcheck"]
    if role["command"][1] == "migrate":
        assert check == {"disable": True}
        return
    kind, *command = check["test"]

    assert kind == "CMD"
    if command[0] == "python":
        compile(command[2], "healthcheck", "exec")
    else:
        assert is_valid_command(command)


@each_role
def test_variables_are_settings(role):
    """A misspelt variable would stop the role at its start, so it fails here."""
    named = {**role["environment"]}
    interpolated = {name for value in named.values() for name in re.findall(r"\$\{([A-Z_]+)", value)}

    assert named.keys() | interpolated <= DEFAULTS.keys()


@each_role
def test_secrets_are_settings_and_never_variables(role):
    """Passwords and keys are passed as files, because `docker inspect` shows the environment."""
    secrets = {target.upper() for target in mounted(role)}
    of_logins = {f"DATABASE_URL_{kind.upper()}" for kind in GROUPS} if role["command"][1] == "migrate" else set()

    assert secrets - of_logins <= DEFAULTS.keys()
    assert of_logins | {"DATABASE_URL"} <= secrets
    assert not {"DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY", "GRISTMILL_FLOWER__BASIC_AUTH"} & {*role["environment"]}


def test_make_writes_every_secret(tmp_path):
    """Before the first start only `make secrets` is needed."""
    make_secrets(tmp_path)

    declared = {tmp_path / secret["file"] for secret in COMPOSE["secrets"].values()}
    assert declared == set((tmp_path / "secrets").iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in declared} == {0o400}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_containers_run_as_the_owner_of_the_secrets(tmp_path):
    """Compose mounts a file with its owner and mode, so a container can read it only as its owner."""
    make_secrets(tmp_path)

    told = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    owner = (tmp_path / "secrets" / "database_url").stat()
    assert told == {"SECRETS_UID": str(owner.st_uid), "SECRETS_GID": str(owner.st_gid)}
    assert owner.st_uid != 0
    for service in SERVICES.values():
        assert re.findall(r"\$\{(\w+):\?", service["user"]) == ["SECRETS_UID", "SECRETS_GID"]


def test_existing_settings_in_env_are_kept(tmp_path):
    """Lines are added after the last line, also if that has no line break."""
    (tmp_path / ".env").write_text("GRISTMILL_LOG_LEVEL=DEBUG")

    make_secrets(tmp_path)

    lines = (tmp_path / ".env").read_text().splitlines()
    assert [line.partition("=")[0] for line in lines] == ["GRISTMILL_LOG_LEVEL", "SECRETS_UID", "SECRETS_GID"]


def test_secrets_are_made_once(tmp_path):
    """A second run keeps every password and repeats no message."""
    make_secrets(tmp_path)
    first = {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()}

    make_secrets(tmp_path)

    assert {file.name: file.read_bytes() for file in (tmp_path / "secrets").iterdir()} == first
    assert len((tmp_path / ".env").read_text().splitlines()) == 2
    urls = [url.decode() for name, url in first.items() if name.startswith("database_url")]
    assert len({make_url(url).password for url in urls}) == len(urls) == 1 + len(GROUPS)


def test_only_migrate_connects_as_the_owner(tmp_path):
    """Every other role has a login with only the rights that its kind of process needs."""
    make_secrets(tmp_path)
    owner = SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    users = {
        name: make_url((tmp_path / COMPOSE["secrets"][mounted(role)["database_url"]]["file"]).read_text()).username
        for name, role in ROLES.items()
    }

    assert users == {
        "migrate": owner,
        "worker": "gristmill_worker_login",
        "worker-scoring": "gristmill_worker_login",
        "dispatcher": "gristmill_dispatcher_login",
        "beat": "gristmill_dispatcher_login",
        "gateway": "gristmill_gateway_login",
        "flower": "gristmill_service_login",
    }


def test_migrate_makes_the_logins_whose_urls_it_is_given():
    """It finds all files under the names under which the roles find theirs."""
    command = SERVICES["migrate"]["command"]

    assert "--roles" in command
    assert command[command.index("--urls") + 1] == "/run/secrets"
    assert {f"database_url_{kind}" for kind in GROUPS} < mounted(SERVICES["migrate"]).keys()


def test_queues_exist_and_none_is_left_unserved():
    """A worker serves registered stages, and one group of workers serves all of them."""
    known = {stage.queue for stage in discover().values()} | {SYSTEM_QUEUE}
    workers = [service for service in ROLES.values() if service["command"][1] == "worker"]
    groups = [service["environment"].get("GRISTMILL_WORKER__QUEUES", "") for service in workers]

    assert {queue for group in groups for queue in group.split(",") if queue} <= known
    assert "" in groups


def test_workers_may_finish_their_grace():
    """The engine waits longer than a draining worker needs, so it never kills one."""
    variable = "GRISTMILL_WORKER__GRACE_SECONDS"
    for service in ROLES.values():
        if service["command"][1] == "worker":
            grace = service["environment"].get(variable, DEFAULTS[variable])
            assert seconds(service["stop_grace_period"]) > float(grace) + EXIT_SECONDS


@each_service
def test_containers_are_confined(service):
    """No container runs as root, gains a capability, writes its own files, or uses the machine without limits."""
    limits = service["deploy"]["resources"]["limits"]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert limits.keys() == {"cpus", "memory", "pids"}
    assert service["user"].partition(":")[0] not in {"root", "0"}


@each_service
def test_dependencies_and_networks_exist(service):
    """A container waits only for services with a health check or an end. Its networks are declared."""
    for name, needed in service.get("depends_on", {}).items():
        once = needed["condition"] == "service_completed_successfully"
        assert once is bool(SERVICES[name].get("healthcheck", {}).get("disable"))
    assert set(service["networks"]) <= COMPOSE["networks"].keys()
    assert set(mounted(service).values()) <= COMPOSE["secrets"].keys()


def test_redis_evicts_and_keeps_nothing():
    """A queue is one key, so an eviction would lose all of it. Only Postgres stores data."""
    command = SERVICES["redis"]["command"][-1]

    assert '--maxmemory-policy noeviction --save "" --appendonly no' in command
    assert not SERVICES["redis"].get("volumes")


def test_image_is_built_from_our_packages_and_nothing_else():
    """A new package must be copied into the image, and only copied files are sent to the build."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    sent = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }

    assert copied == sent
    assert set(PACKAGES) < copied
    assert all((ROOT / name).exists() for name in copied)


def test_image_runs_as_an_ordinary_user():
    """With one security hole, root inside a container is root outside."""
    users = re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert users
    assert users[-1] not in {"root", "0", "0:0"}
