"""Parts of `up` and of the roles: processes, addresses, revisions, and requests to Flower."""

import socket
from pathlib import Path

import pytest
import redis
from alembic.config import Config
from alembic.script import ScriptDirectory

import migrations
from cli.server_urls import find_server_urls, required_url
from config.settings import Settings
from local.system import Ports, build_roles, check_redis, flower_port_for, gateway_port_for
from migrations.revisions import Position, position_of, revisions
from workers.runtime.handler.registry import Registry
from workers.runtime.operate.logins import GROUPS
from workers.runtime.refusals import Failed, Refusal
from workers.transport.flower import FlowerError, is_foreign, run_flower

URLS = {"database_url": "postgresql://u:secret@127.0.0.1:1/d", "redis_url": "redis://:secret@127.0.0.1:2/0"}


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    for name in ("DATABASE_URL", "REDIS_URL", "GRISTMILL_FLOWER__PORT"):
        monkeypatch.delenv(name, raising=False)
    return Settings(data_dir=tmp_path)


def test_up_runs_every_role_and_no_argument_holds_a_password() -> None:
    """Workers and the gateway stop first. URLs are passed in the environment, which only the owner may read."""
    made = build_roles(URLS, workers=2, ports=Ports(gateway=8001, flower=5000))

    assert [role.name for role in made] == ["worker-1", "worker-2", "dispatcher", "beat", "gateway", "flower"]
    assert [role.stop_first for role in made] == [True, True, False, False, True, False]
    assert [role.argv[-1] for role in made] == ["worker", "worker", "dispatcher", "beat", "gateway", "flower"]
    assert all(role.env["DATABASE_URL"] == URLS["database_url"] for role in made)
    assert not any("secret" in argument for role in made for argument in role.argv)


def test_each_role_connects_by_the_login_of_its_kind() -> None:
    """Beat uses the dispatcher's login. Flower's login has few rights. No role gets the owner's login."""
    logins = {kind: f"postgresql://{kind}:pw@127.0.0.1:1/d" for kind in GROUPS}

    made = build_roles(URLS, logins=logins, workers=1, ports=Ports(gateway=8001, flower=5000))

    assert {role.name: role.env["DATABASE_URL"] for role in made} == {
        "worker-1": logins["worker"],
        "dispatcher": logins["dispatcher"],
        "beat": logins["dispatcher"],
        "gateway": logins["gateway"],
        "flower": logins["service"],
    }


@pytest.mark.parametrize(
    ("role", "find_port", "name"),
    [("flower", flower_port_for, "Flower's"), ("gateway", gateway_port_for, "the gateway's")],
)
def test_a_taken_port_is_replaced_unless_it_was_asked_for(settings: Settings, role, find_port, name) -> None:
    """The default may be replaced. A port that a person named is never replaced."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        default = Settings(data_dir=settings.data_dir)
        getattr(default, role).__dict__["port"] = port  # a default, not a set value

        assert find_port(default, None) != port
        with pytest.raises(Refusal, match=f"{name} port {port} is taken"):
            find_port(settings, port)


def test_without_settings_and_without_a_system_a_command_says_what_to_do(settings: Settings) -> None:
    """One line tells a new user what to do."""
    with pytest.raises(Failed) as told:
        find_server_urls(settings)

    assert str(told.value) == (
        f"nothing runs in {settings.data_dir}; start it with `gristmill up`, set GRISTMILL_DATA_DIR to the data"
        " folder of a running system, or set DATABASE_URL"
    )


def test_a_role_looks_for_no_servers_by_itself(settings: Settings) -> None:
    """In a container a wrong database found by chance would be worse than none."""
    with pytest.raises(Failed, match="DATABASE_URL must be set"):
        required_url(settings, "database_url")


def test_revisions_are_those_of_alembic_in_its_order() -> None:
    """The revisions are read as text, which is fast. Alembic returns the same ones."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)

    assert list(revisions()) == [one.revision for one in reversed(list(script.walk_revisions()))]


@pytest.mark.parametrize(
    ("current", "usable", "known"),
    [(None, False, True), ("0001", False, True), ("head", True, True), ("9999", True, False)],
)
def test_a_role_runs_at_the_head_and_on_what_a_newer_release_made(current, usable, known) -> None:
    """During a rolling upgrade the old release keeps running after the new one has migrated."""
    position = position_of(revisions()[-1] if current == "head" else current)

    assert position == Position(position.current, revisions()[-1], known)
    assert position.usable is usable


def test_flower_beyond_loopback_needs_a_password() -> None:
    """Flower can cancel jobs, so it must not be open to a network by mistake."""
    with pytest.raises(FlowerError, match=r"must have basic_auth to listen beyond loopback, got address '0\.0\.0\.0'"):
        run_flower(Registry(), redis_url=URLS["redis_url"], address="0.0.0.0", port=5555, basic_auth=None)  # noqa: S104 - refused


@pytest.mark.parametrize(
    ("host", "origin", "foreign"),
    [
        ("127.0.0.1:5555", None, False),
        ("localhost:5555", "http://localhost:5555", False),
        ("[::1]:5555", None, False),
        ("localhost:5555", "http://evil.example", True),
        ("localhost:5555", "http://localhost:8000", True),
        ("evil.example:5555", None, True),
        ("", None, True),
    ],
)
def test_flower_without_a_password_answers_this_machine_s_own_pages_only(host, origin, foreign) -> None:
    """A site open in the operator's browser can neither read jobs nor revoke them."""
    assert is_foreign(host, origin) is foreign


def test_up_asks_a_redis_that_is_configured_before_it_starts_the_roles() -> None:
    """Otherwise every role would wait for Redis, and `up --detach` would report success."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    with pytest.raises(redis.ConnectionError):
        check_redis(f"redis://127.0.0.1:{port}/0")
