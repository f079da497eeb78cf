"""``gristmill llm``: providers, routes, limits, budgets and prices by the front door, every refusal one clear line."""

import io
import json
import sys
import uuid
from datetime import datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support.admission import Rows, call
from tests.support.command_line import Gristmill, as_json
from tests.support.fakes.openai_server import FakeOpenAI
from workers.operations.keyring import Keyring, new_key

SECRET = "sk-proj-a1B2c3D4e5F6g7H8i9J0"


@pytest.fixture
def rows(psql) -> Rows:
    """The tables of admission."""
    return Rows(psql)


@pytest.fixture
def secret_key(monkeypatch) -> str:
    """The key of this installation's keyring."""
    key = new_key()
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", key)
    return key


@pytest.fixture
def local(gristmill) -> str:
    """A provider without a key."""
    assert (
        gristmill("llm", "providers", "add", "local", "--kind", "compatible", "--base-url", "http://127.0.0.1:1/v1")[0]
        == 0
    )
    return "local"


@pytest.fixture
def proving_job(gristmill) -> uuid.UUID:
    """A job that is there."""
    code, output, said = gristmill("enqueue", "proving.plain", "--payload", "{}")
    assert code == 0, said
    return uuid.UUID(output.strip())


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have ``text`` on standard input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def providers(gristmill: Gristmill) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in as_json(gristmill, "llm", "providers")}


def test_a_key_comes_from_standard_input_and_is_shown_nowhere(gristmill, rows, monkeypatch, secret_key):
    """It is encrypted at rest, and no command's output, JSON or complaint has it."""
    typed(monkeypatch, f"{SECRET}\n")

    code, output, said = gristmill("llm", "providers", "add", "main", "--kind", "openai")

    assert code == 0, said
    [row] = rows.ask("SELECT * FROM llm.providers")
    assert Keyring([secret_key]).decrypt(row["api_key"]) == SECRET
    shown = output + said + "".join(gristmill("llm", "providers")[1:]) + json.dumps(providers(gristmill))
    assert SECRET not in shown
    assert row["api_key"] not in shown
    assert providers(gristmill)["main"]["has_key"] is True


def test_a_key_comes_from_the_environment_where_that_is_asked_for(gristmill, rows, monkeypatch, secret_key):
    """So that a script needs no pipe, and no process list shows it."""
    monkeypatch.setenv("THEIR_KEY", SECRET)

    assert gristmill("llm", "providers", "add", "router", "--kind", "openrouter", "--key-env", "THEIR_KEY")[0] == 0

    [row] = rows.ask("SELECT * FROM llm.providers")
    assert Keyring([secret_key]).decrypt(row["api_key"]) == SECRET


ADD = ("llm", "providers", "add")
REFUSED_PROVIDERS = {
    "name must be of letters, digits, dots, dashes and underscores, got 'a b'": (*ADD, "a b", "--kind", "offline"),
    "name must not be 'environment': that provider comes from OPENAI_API_KEY": (
        *ADD, "environment", "--kind", "offline",
    ),
    "kind must be 'openai', 'openrouter', 'compatible' or 'offline', got 'azure'": (*ADD, "x", "--kind", "azure"),
    "kind is required; give --kind openai": (*ADD, "x"),
    "base_url is required of a compatible provider; such as http": (*ADD, "x", "--kind", "compatible"),
    "base_url must be an http or https URL without credentials, query or fragment, got 'ftp://h'": (
        *ADD, "x", "--kind", "compatible", "--base-url", "ftp://h",
    ),
    "base_url must not hold a key, got what was given": (
        *ADD, "x", "--kind", "compatible", "--base-url", f"https://h/{SECRET}",
    ),
    "base_url and key are not for the offline evaluator": (
        *ADD, "x", "--kind", "offline", "--base-url", "http://h",
    ),
    "environment variable NO_SUCH_KEY is not set": (*ADD, "x", "--kind", "openai", "--key-env", "NO_SUCH_KEY"),
    "key must be 8 to 500 printable characters without blanks, got what was given": (
        *ADD, "x", "--kind", "openai", "--key-env", "SHORT_KEY",
    ),
    "base_url must be https for kind openai: its key is sent there, got 'http://h/v1'": (
        *ADD, "x", "--kind", "openai", "--base-url", "http://h/v1", "--key-env", "GOOD_KEY",
    ),
    "provider environment comes from OPENAI_API_KEY, OPENAI_BASE_URL": ("llm", "providers", "pause", "environment"),
    "provider 'nobody' does not exist; providers: none; `gristmill llm providers` shows them": (
        "llm", "providers", "remove", "nobody",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "arguments"), REFUSED_PROVIDERS.items())
@pytest.mark.usefixtures("secret_key")
def test_what_no_provider_can_be_is_refused_in_one_line(gristmill, rows, monkeypatch, said, arguments):
    """The line names the field, the rule and the value; nothing is written, and no key is quoted."""
    monkeypatch.setenv("SHORT_KEY", "short")
    monkeypatch.setenv("GOOD_KEY", SECRET)

    code, output, line = gristmill(*arguments)

    assert code in {1, 2}
    assert line.startswith(f"gristmill: {said}")
    assert "\n" not in line
    assert SECRET not in output + line
    assert rows.ask("SELECT * FROM llm.providers") == []


def test_without_keys_of_the_keyring_no_key_is_kept(gristmill, rows, monkeypatch):
    """The line says which variable is missing and how to make one."""
    monkeypatch.setenv("THEIR_KEY", SECRET)

    code, _, line = gristmill(*ADD, "x", "--kind", "openai", "--key-env", "THEIR_KEY")

    assert code == 2
    assert "GRISTMILL_SECRET_KEYS must be set" in line
    assert rows.ask("SELECT * FROM llm.providers") == []


def test_the_key_of_one_server_is_not_sent_to_another(gristmill, rows, monkeypatch, secret_key):
    """Another address needs the key anew."""
    monkeypatch.setenv("THEIR_KEY", SECRET)
    old, new = ("--base-url", "https://one/v1"), ("--base-url", "https://two/v1")
    assert gristmill(*ADD, "p", "--kind", "compatible", *old, "--key-env", "THEIR_KEY")[0] == 0

    code, _, line = gristmill("llm", "providers", "set", "p", *new)

    assert code == 2
    assert line.startswith("gristmill: key is required with another address")
    assert gristmill("llm", "providers", "set", "p", *new, "--key-env", "THEIR_KEY")[0] == 0
    assert providers(gristmill)["p"]["base_url"] == "https://two/v1"


def test_another_kind_is_another_address_too(gristmill, rows, monkeypatch, secret_key):
    """The key of OpenAI is not sent to OpenRouter because somebody changed a word."""
    monkeypatch.setenv("THEIR_KEY", SECRET)
    assert gristmill(*ADD, "p", "--kind", "openai", "--key-env", "THEIR_KEY")[0] == 0

    code, _, line = gristmill("llm", "providers", "set", "p", "--kind", "openrouter")

    assert code == 2
    assert line.startswith("gristmill: key is required with another address")
    assert [row["kind"] for row in rows.ask("SELECT kind FROM llm.providers")] == ["openai"]


def test_settings_rotate_takes_the_keys_of_providers_along(gristmill, rows, monkeypatch, secret_key):
    """Afterwards the old key can go."""
    monkeypatch.setenv("THEIR_KEY", SECRET)
    assert gristmill(*ADD, "main", "--kind", "openai", "--key-env", "THEIR_KEY")[0] == 0
    fresh = new_key()
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", f"{fresh},{secret_key}")

    code, output, _ = gristmill("settings", "rotate")

    assert (code, output) == (0, "1 secret encrypted with the first key\n")
    [row] = rows.ask("SELECT api_key FROM llm.providers")
    assert Keyring([fresh]).decrypt(row["api_key"]) == SECRET


def test_the_environment_and_the_settings_are_listed_with_their_origin(gristmill, monkeypatch, local):
    """What needs no row is a provider like the others, and says where it comes from."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert gristmill("settings", "set", "ai_provider=lmstudio", "llm_model=m")[0] == 0

    found = as_json(gristmill, "llm", "providers")

    assert [(one["name"], one["origin"], one["kind"]) for one in found] == [
        ("environment", "environment", "compatible"),
        ("settings", "settings", "lmstudio"),
        ("local", "table", "compatible"),
    ]
    assert found[1]["routes"] == ["default", "default-embeddings"]


def test_a_paused_provider_says_why_and_resume_ends_it(gristmill, rows, local):
    """A pause, a cooldown and an outage are all ended by one command; a second one says that there was nothing."""
    assert gristmill("llm", "providers", "pause", local, "--reason", "rebuilding the index")[0] == 0
    rows.ask("SELECT llm.cool_down('local', '', 60, 'HTTP 429')")
    rows.ask(
        "INSERT INTO runtime.provider_pauses (provider, since, until, reason) "
        "VALUES ('http://127.0.0.1:1/v1', now(), now() + interval '1 minute', 'connection refused')"
    )
    one = providers(gristmill)[local]
    assert (one["state"], one["reason"]) == ("paused", "rebuilding the index")

    assert gristmill("llm", "resume", local)[:2] == (0, "local is asked again\n")

    assert providers(gristmill)[local]["state"] == "open"
    assert rows.ask("SELECT 1 FROM llm.cooldowns UNION ALL SELECT 1 FROM runtime.provider_pauses") == []
    assert gristmill("llm", "resume") == (0, "", "nothing is paused, away or cooling down")


def test_resume_lets_the_jobs_of_a_provider_go_on(gristmill, rows, local, proving_job):
    """At once, also if nothing but snoozed jobs is left of a pause. Jobs that sleep for something else sleep on."""
    code, output, _ = gristmill("enqueue", "proving.plain", "--payload", "{}")
    other = uuid.UUID(output.strip())
    said = {proving_job: "snoozed: Provider local is paused since noon", other: "snoozed: told to sleep"}
    with rows.connection.transaction():
        rows.ask("SET LOCAL session_replication_role = replica")
        for job, reason in said.items():
            rows.ask(
                "UPDATE proving.plain_jobs SET due_at = now() + interval '1 hour', change_action = 'snooze', "
                "change_reason = %s WHERE id = %s",
                reason,
                job,
            )

    assert gristmill("llm", "resume")[:2] == (0, "local is asked again; 1 job woken\n")

    asleep = rows.ask("SELECT id FROM proving.plain_jobs WHERE due_at IS NOT NULL")
    assert [row["id"] for row in asleep] == [other]
    assert code == 0
    assert gristmill("llm", "resume") == (0, "", "nothing is paused, away or cooling down")


def test_a_provider_in_use_is_not_removed(gristmill, local):
    """The line names the routes that need it."""
    assert gristmill("llm", "routes", "add", "fast", "--step", "local/m")[0] == 0

    code, _, line = gristmill("llm", "providers", "remove", local)

    assert (code, line) == (1, "gristmill: provider 'local' is in use by fast; change or remove those first")
    assert gristmill("llm", "routes", "remove", "fast")[0] == 0
    assert gristmill("llm", "providers", "remove", local)[0] == 0


def test_a_route_has_its_steps_in_their_order(gristmill, local):
    """With the bounds and prefixes that were said of each."""
    steps = ("--step", "local/a,max_tokens=800,context_tokens=4000", "--step", "local/vendor/b:free")

    assert gristmill("llm", "routes", "add", "fast", *steps)[0] == 0

    [one] = [route for route in as_json(gristmill, "llm", "routes") if route["name"] == "fast"]
    assert [(step["provider"], step["model"], step["max_tokens"]) for step in one["steps"]] == [
        ("local", "a", 800),
        ("local", "vendor/b:free", None),
    ]
    assert gristmill("llm", "routes", "steps", "fast", "--step", "local/c")[:2] == (0, "fast has 1 step\n")
    assert "local" in gristmill("llm", "routes", "show", "fast")[1]


def test_calls_take_the_route_that_is_bound_most_closely(gristmill, local):
    """A binding replaces the one of the same stage and project, and is undone exactly."""
    gristmill("projects", "create", "acme")
    for name in ("fast", "cheap"):
        assert gristmill("llm", "routes", "add", name, "--step", "local/m")[0] == 0
    bind = ("llm", "routes", "bind")

    assert gristmill(*bind, "fast", "--stage", "proving.plain")[:2] == (0, "fast is taken by stage proving.plain\n")
    assert gristmill(*bind, "cheap", "--stage", "proving.plain")[0] == 0
    assert gristmill(*bind, "fast", "--project", "acme")[0] == 0

    table = gristmill("llm", "routes")[1]
    assert "project acme" in table
    assert gristmill("llm", "routes", "remove", "cheap")[2] == (
        "gristmill: route 'cheap' is taken by stage proving.plain; `gristmill llm routes unbind` first"
    )
    unbind = ("llm", "routes", "unbind", "--stage", "proving.plain")
    assert gristmill(*unbind)[:2] == (0, "cheap is no longer bound there\n")
    assert gristmill(*unbind)[2].startswith("gristmill: no route for chat is bound to stage proving.plain")


ROUTES = ("llm", "routes", "add", "r")
REFUSED_ROUTES = {
    "step must be PROVIDER/MODEL, such as openai/gpt-4o-mini, got 'local'": (*ROUTES, "--step", "local"),
    "step may say max_tokens=…, context_tokens=…, document_prefix=…, query_prefix=… behind the model, got 'top_p=1'": (
        *ROUTES, "--step", "local/m,top_p=1",
    ),
    "step's max_tokens must be a whole number, got 'many'": (*ROUTES, "--step", "local/m,max_tokens=many"),
    "steps.0.max_tokens must be greater than or equal to 1, got 0": (*ROUTES, "--step", "local/m,max_tokens=0"),
    "provider 'lokal' does not exist; providers: local; did you mean local?": (*ROUTES, "--step", "lokal/m"),
    "a step needs a provider with a row, and provider environment comes from": (*ROUTES, "--step", "environment/m"),
    "step local/m is given twice: each is tried once": (*ROUTES, "--step", "local/m", "--step", "local/m"),
    "a route for embeddings must ask one model with one prefix": (
        *ROUTES, "--serves", "embeddings", "--step", "local/a", "--step", "local/b",
    ),
    "stage 'proving.typo' is not registered": ("llm", "routes", "bind", "r", "--stage", "proving.typo"),
    "route 'default' has no row: it follows the environment": ("llm", "routes", "bind", "default"),
    "route 'r' does not exist; routes: none": ("llm", "routes", "steps", "r", "--step", "local/m"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "arguments"), REFUSED_ROUTES.items())
def test_what_no_route_can_be_is_refused_in_one_line(gristmill, rows, local, said, arguments):
    """Nothing of it is written."""
    code, _, line = gristmill(*arguments)

    assert code in {1, 2}
    assert line.startswith(f"gristmill: {said}")
    assert rows.ask("SELECT * FROM llm.routes") == []


def test_limits_are_set_together_changed_in_place_and_removed(gristmill, rows, local):
    """One for the same calls, measure and window is changed: no second one beside it."""
    both = ("--requests-per-minute", "60", "--tokens-per-minute", "90000", "--concurrency", "4")
    assert gristmill("llm", "limits", "set", "--provider", local, *both)[0] == 0

    assert gristmill("llm", "limits", "set", "--provider", local, "--requests-per-minute", "30")[0] == 0

    found = as_json(gristmill, "llm", "limits")
    assert {(one["measure"], one["at_most"], one["window_seconds"]) for one in found} == {
        ("requests", 30, 60.0),
        ("tokens", 90_000, 60.0),
        ("concurrency", 4, None),
    }
    [of_requests] = [one for one in found if one["measure"] == "requests"]
    assert of_requests["name"] == "requests per minute of provider local"
    assert gristmill("llm", "limits", "remove", of_requests["id"])[0] == 0
    assert len(as_json(gristmill, "llm", "limits")) == 2


def test_a_limit_tells_what_is_used_what_is_under_way_and_when_there_is_room(gristmill, rows, local):
    """Of a full one the time comes from the window; of calls under way it says that one must end."""
    assert (
        gristmill(
            "llm", "limits", "set", "--requests-per-minute", "2", "--concurrency", "2", "--stage", "scoring.score"
        )[0]
        == 0
    )
    first, second = call("local"), call("local")
    assert rows.admit(first, second) == [None, None]

    full = {one["measure"]: one for one in as_json(gristmill, "llm", "limits")}
    table = gristmill("llm", "limits")[1]
    rows.settle(first, input=10, output=0)
    after = {one["measure"]: one for one in as_json(gristmill, "llm", "limits")}

    assert [
        (full[name]["used"], full[name]["reserved"], full[name]["is_full"]) for name in ("requests", "concurrency")
    ] == [
        (2, 2, True),
        (2, 2, True),
    ]
    assert full["requests"]["free_at"] is not None
    assert full["concurrency"]["free_at"] is None
    assert "when a call ends" in table
    assert (after["requests"]["used"], after["requests"]["reserved"]) == (2, 1)
    assert (after["concurrency"]["used"], after["concurrency"]["is_full"]) == (1, False)


def test_a_limit_that_each_owner_has_shows_the_fullest(gristmill, rows):
    """Of many tenants the one that is closest to it counts."""
    assert gristmill("llm", "limits", "set", "--each-owner", "--requests-per-minute", "5")[0] == 0
    busy = uuid.uuid4()
    rows.admit(*(call(owner=busy) for _ in range(3)), call(owner=uuid.uuid4()))

    [one] = as_json(gristmill, "llm", "limits")

    assert (one["used"], one["reserved"], one["subjects"], one["fullest"]) == (3, 3, 2, str(busy))


LIMITS = ("llm", "limits", "set")
REFUSED_LIMITS = {
    "a limit needs a measure, such as --requests-per-minute 60": (*LIMITS, "--provider", "local"),
    "provider 'lokal' does not exist; providers: environment, local; did you mean local?": (
        *LIMITS, "--provider", "lokal", "--concurrency", "1",
    ),
    "stage 'proving.typo' is not registered": (*LIMITS, "--stage", "proving.typo", "--concurrency", "1"),
    "owner must not be given for a limit that each owner has": (
        *LIMITS, "--owner", str(uuid.UUID(int=1)), "--each-owner", "--concurrency", "1",
    ),
    "at_most must be less than or equal to 1000000000000": (*LIMITS, "--tokens-per-day", "1000000000001"),
    f"limit {uuid.UUID(int=1)} does not exist": ("llm", "limits", "remove", str(uuid.UUID(int=1))),
}  # fmt: skip


@pytest.mark.parametrize(("said", "arguments"), REFUSED_LIMITS.items())
def test_what_no_limit_can_be_is_refused_in_one_line(gristmill, rows, local, said, arguments):
    """Nothing of it is written."""
    code, _, line = gristmill(*arguments)

    assert code in {1, 2}
    assert line.startswith(f"gristmill: {said}")
    assert rows.ask("SELECT * FROM llm.limits") == []


def test_a_budget_is_set_shown_and_removed(gristmill, rows):
    """With what its present window has reserved and spent, and its state."""
    assert gristmill("llm", "budgets", "set", "--window", "day", "--usd", "0.03", "--zone", "Asia/Tokyo")[0] == 0
    spent, under_way = call(tokens=2_000, output=4_000), call(tokens=2_000, output=4_000)
    assert rows.admit(spent, under_way) == [None, None]
    rows.settle(spent, input=2_000, output=4_000)

    [one] = as_json(gristmill, "llm", "budgets")
    table = gristmill("llm", "budgets")[1]

    assert (one["name"], one["state"], Decimal(one["share"])) == ("all per day", "open", Decimal("0.6667"))
    assert (Decimal(one["spent_usd"]), Decimal(one["reserved_usd"])) == (Decimal("0.01"), Decimal("0.01"))
    assert "all per day" in table
    assert "67%" in table.replace(" ", "")
    assert gristmill("llm", "budgets", "remove", "all per day")[0] == 0
    assert as_json(gristmill, "llm", "budgets") == []


def test_a_budget_of_a_project_is_set_by_its_name(gristmill, rows):
    """The row has the id, and the list shows the name again."""
    gristmill("projects", "create", "acme")

    assert gristmill("llm", "budgets", "set", "--scope", "project:acme", "--tokens", "1000", "--then", "batch")[0] == 0

    [row] = rows.ask('SELECT name, scope, scope_value, "window", "then" FROM llm.budgets')
    [project] = rows.ask("SELECT id FROM operations.projects")
    assert row == {
        "name": "project:acme per month",
        "scope": "project",
        "scope_value": str(project["id"]),
        "window": "month",
        "then": "batch",
    }
    assert "project acme" in gristmill("llm", "budgets")[1]


BUDGETS = ("llm", "budgets", "set", "b")
REFUSED_BUDGETS = {
    "a budget needs an amount: usd, tokens or both": BUDGETS,
    "usd must be an amount of US dollars, such as 2.50, got 'much'": (*BUDGETS, "--usd", "much"),
    "usd must be greater than or equal to 0, got '-1'": (*BUDGETS, "--usd", "-1"),
    "usd must be a finite number": (*BUDGETS, "--usd", "NaN"),
    "window must be 'day', 'week', 'month' or 'total', got 'hour'": (*BUDGETS, "--usd", "1", "--window", "hour"),
    "then must be 'stop', 'slow', 'batch' or 'warn', got 'ask'": (*BUDGETS, "--usd", "1", "--then", "ask"),
    "zone must be an IANA name such as Europe/Paris, got 'Mars'": (*BUDGETS, "--usd", "1", "--zone", "Mars"),
    "scope must be all, or one of tenant, project, profile, stage with :VALUE, got 'team:a'": (
        *BUDGETS, "--usd", "1", "--scope", "team:a",
    ),
    "scope must name whose calls it is about, such as stage:scoring.score": (
        *BUDGETS, "--usd", "1", "--scope", "stage",
    ),
    "scope must name a tenant by its id, got 'acme'": (*BUDGETS, "--usd", "1", "--scope", "tenant:acme"),
    "stage 'proving.typo' is not registered": (*BUDGETS, "--usd", "1", "--scope", "stage:proving.typo"),
    "project 'nowhere' does not exist": (*BUDGETS, "--usd", "1", "--scope", "project:nowhere"),
    "warn-at must be shares with commas, such as 0.5,0.8, got 'often'": (*BUDGETS, "--usd", "1", "--warn-at", "often"),
    "budget 'b' does not exist; budgets: none": ("llm", "budgets", "remove", "b"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "arguments"), REFUSED_BUDGETS.items())
def test_what_no_budget_can_be_is_refused_in_one_line(gristmill, rows, said, arguments):
    """Nothing of it is written."""
    code, _, line = gristmill(*arguments)

    assert code in {1, 2}
    assert line.startswith(f"gristmill: {said}")
    assert rows.ask("SELECT * FROM llm.budgets") == []


def test_prices_say_who_said_them_and_what_nobody_knows(gristmill, local):
    """A price that nobody knows is null and told, never 0; an operator's comes first; 0 is free."""
    assert gristmill("llm", "routes", "add", "fast", "--step", "local/m", "--step", "local/n")[0] == 0

    before = {one["model"]: one for one in as_json(gristmill, "llm", "prices")}
    said = gristmill("llm", "prices")[2]
    assert (
        gristmill("llm", "prices", "set", "--provider", local, "--model", "m", "--input", "0", "--output", "0")[0] == 0
    )
    after = {one["model"]: one for one in as_json(gristmill, "llm", "prices")}

    assert (before["m"]["source"], before["m"]["input_per_million"]) == (None, None)
    assert "nobody knows what some models cost" in said
    assert (after["m"]["source"], after["m"]["input_per_million"]) == ("operator", "0")
    assert after["n"]["source"] is None
    assert gristmill("llm", "prices", "remove", "--provider", local, "--model", "m")[0] == 0
    assert gristmill("llm", "prices", "remove", "--provider", local, "--model", "m")[2].startswith(
        "gristmill: no price of model 'm' of provider 'local' is set"
    )


def test_a_price_for_every_model_of_a_provider_is_said_once(gristmill, local):
    """A server of one's own costs nothing, whatever it serves."""
    assert gristmill("llm", "routes", "add", "fast", "--step", "local/m")[0] == 0

    assert gristmill("llm", "prices", "set", "--provider", local, "--model", "*", "--input", "0")[0] == 0

    found = {one["model"]: one for one in as_json(gristmill, "llm", "prices")}
    assert found["m"]["source"] == "operator"


REFUSED_PRICES = {
    "input must be an amount of US dollars, such as 2.50, got 'x'": (
        "--provider", "local", "--model", "m", "--input", "x",
    ),
    "input must be greater than or equal to 0": ("--provider", "local", "--model", "m", "--input", "-1"),
    "batch_discount must be less than or equal to 1": (
        "--provider", "local", "--model", "m", "--input", "1", "--batch", "2",
    ),
    "provider 'x' does not exist": ("--provider", "x", "--model", "m", "--input", "1"),
}  # fmt: skip


@pytest.mark.parametrize(("said", "arguments"), REFUSED_PRICES.items())
def test_what_no_price_can_be_is_refused_in_one_line(gristmill, rows, local, said, arguments):
    """Nothing of it is written."""
    code, _, line = gristmill("llm", "prices", "set", *arguments)

    assert code in {1, 2}
    assert line.startswith(f"gristmill: {said}")
    assert rows.ask("SELECT * FROM llm.prices") == []


def test_the_doctor_asks_a_provider_on_request(gristmill, monkeypatch):
    """One short question and one short vector, of the models that its routes ask; nobody else is asked."""
    with FakeOpenAI() as server:
        server.script(default={"kind": "answer"}, models=["judge-1", "embedder-1"])
        assert gristmill(*ADD, "local", "--kind", "compatible", "--base-url", server.url)[0] == 0
        assert gristmill("llm", "routes", "add", "judge", "--step", "local/judge-1")[0] == 0
        embeds = ("--serves", "embeddings", "--step", "local/embedder-1")
        assert gristmill("llm", "routes", "add", "embed", *embeds)[0] == 0

        code, output, said = gristmill("doctor", "--provider", "local", "--json")

    assert code == 0, said
    checks = json.loads(output)["checks"]
    assert [(one["name"], one["state"]) for one in checks] == [("provider", "ok"), ("embeddings", "ok")]
    assert gristmill("doctor", "--provider", "nobody")[2].startswith("gristmill: provider 'nobody' does not exist")


def test_the_doctor_says_why_a_provider_on_request_does_not_answer(gristmill, local):
    """With the command that changes it."""
    code, output, _ = gristmill("doctor", "--provider", local)

    assert code == 1
    assert "does not answer" in output
    assert "`gristmill llm providers set local`" in output


def test_a_key_that_no_key_of_the_keyring_decrypts_is_told(gristmill, monkeypatch, secret_key):
    """By the doctor and in the list: calls to that provider would fail."""
    monkeypatch.setenv("THEIR_KEY", SECRET)
    assert gristmill(*ADD, "main", "--kind", "openai", "--key-env", "THEIR_KEY")[0] == 0
    monkeypatch.setenv("GRISTMILL_SECRET_KEYS", new_key())

    checks = {one["name"]: one for one in json.loads(gristmill("doctor", "--json")[1])["checks"]}

    assert checks["secrets"]["state"] == "failed"
    assert checks["secrets"]["found"].startswith("key of provider main: no key of GRISTMILL_SECRET_KEYS")
    assert "gristmill llm providers set" in checks["secrets"]["remedy"]
    assert (providers(gristmill)["main"]["state"], providers(gristmill)["main"]["has_key"]) == ("unusable", True)


def test_spend_is_summed_drawn_and_told(gristmill, rows, tmp_path):
    """A table with bars, a total, a picture; JSON has it all."""
    one, lost = call(tokens=2_000, output=4_000), call(model="other", tokens=2_000, output=4_000)
    rows.admit(one, lost)
    rows.settle(one, input=2_000, output=4_000)
    rows.settle(lost, became="orphaned")

    code, output, _ = gristmill("llm", "spend", "--by", "model,stage", "--plot", str(tmp_path / "spend.svg"))
    found = as_json(gristmill, "llm", "spend", "--by", "day,model")

    assert code == 0
    assert "total $0.02; 2 calls; 4,000 tokens in; 8,000 out; $0.01 of it estimated" in output
    assert "█" in output
    assert (tmp_path / "spend.svg").read_text().startswith("<svg")
    assert Decimal(found["total"]["usd"]) == Decimal("0.02")
    assert {row["by"]["model"] for row in found["rows"]} == {"m", "other"}


def test_the_day_of_a_call_is_that_of_the_zone(gristmill, rows):
    """In the table and in JSON, east and west of Greenwich."""
    rows.admit(call(tokens=2_000))
    [moment] = rows.ask("SELECT created_at FROM llm.calls")
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 14 hours ahead of UTC, 11 behind
        today = moment["created_at"].astimezone(ZoneInfo(zone)).date()

        code, output, _ = gristmill("llm", "spend", "--by", "day", "--zone", zone)
        found = as_json(gristmill, "llm", "spend", "--by", "day", "--zone", zone)

        assert code == 0
        assert str(today) in output
        begin = datetime.fromisoformat(found["rows"][0]["by"]["day"])  # JSON has moments in UTC
        assert begin == datetime.combine(today, time(), ZoneInfo(zone))


def test_spend_refuses_what_it_cannot_sum_up_by(gristmill):
    """The line names every word that it knows."""
    assert (
        "zone must be an IANA name such as Europe/Paris, got 'Mars'" in gristmill("llm", "spend", "--zone", "Mars")[2]
    )
    for words, said in (("model,colour", "by must be of model, served, "), ("day,day", "by names day twice")):
        code, _, line = gristmill("llm", "spend", "--by", words)

        assert code == 2
        assert line.startswith(f"gristmill: {said}")
    assert gristmill("llm", "spend")[2] == "no calls match"


def test_calls_are_listed_and_shown_one_by_one(gristmill, rows):
    """With estimates marked as such; an unknown price is unknown, not nothing."""
    settled, unpriced, under_way = call(tokens=2_000, output=4_000), call(model="unknown"), call(tokens=2_000)
    rows.admit(settled, unpriced, under_way)
    rows.settle(settled, input=2_000, cached=500, output=4_000, reasoning=10, seconds=1.5, served="m-2")
    rows.settle(unpriced, input=1, output=1)

    code, table, said = gristmill("llm", "calls")
    shown = gristmill("llm", "calls", "show", str(settled.id))[1]

    assert code == 0
    assert "unknown" in table
    assert "~2,000" in table
    assert "~ is an estimate" in said
    assert "2,000 tokens, 500 of them cached" in shown
    assert "m-2" in shown
    assert [one["state"] for one in as_json(gristmill, "llm", "calls", "--state", "reserved")] == ["reserved"]
    assert gristmill("llm", "calls", "--state", "lost")[2] == (
        "gristmill: state must be one of reserved, settled, unpriced, orphaned, cached, failed, got 'lost'"
    )
    missing = uuid.UUID(int=5)
    assert gristmill("llm", "calls", "show", str(missing))[2].startswith(
        f"gristmill: call {missing} is not in the ledger"
    )


def test_jobs_show_tells_what_each_attempt_used(gristmill, rows, proving_job):
    """Calls, tokens and money by attempt, and who answered; the JSON has every call."""
    one = call(job=proving_job, version=2, tokens=2_000, output=4_000)
    rows.admit(one)
    rows.settle(one, input=2_000, output=4_000, served="m-2")

    output = gristmill("jobs", "show", str(proving_job))[1]
    found = as_json(gristmill, "jobs", "show", str(proving_job))

    assert "1 call, $0.01" in output
    assert "p/m-2" in output
    assert [Decimal(attempt["usd"]) for attempt in found["attempts"]] == [Decimal("0.01")]
    assert [one["state"] for one in found["calls"]] == ["settled"]
