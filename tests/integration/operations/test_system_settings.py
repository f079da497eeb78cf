"""Settings at run time: rules, secrets, and the choice of the provider."""

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.support.secret_keys import KEY_PREFIXES
from workers.operations.keyring import Keyring, new_key
from workers.operations.provider_choice import read_choice
from workers.operations.refusals import OperationsError
from workers.operations.system_settings import HIDDEN, list_settings, put, remove, rotate

SECRET = "sk-or-v1-0123456789abcdef"
NO_KEYS = Keyring([])


async def stored(session, key: str) -> str:
    return str(
        await session.scalar(text("SELECT value FROM operations.system_settings WHERE key = :key"), {"key": key})
    )


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("ai_provider", "lmstudi", "ai_provider must be one of lmstudio, openrouter, openai, offline, got 'lmstudi'"),
        (
            "ai_host",
            "localhost:1234",
            "ai_host must be an http or https URL without credentials, query or fragment, got 'localhost:1234'",
        ),
        (
            "ai_host",
            "http://a:b@host/v1",
            "ai_host must be an http or https URL without credentials, query or fragment",
        ),
        (
            "ai_host",
            "http://localhost:1234v1",
            "ai_host must be an http or https URL without credentials, query or fragment",
        ),
        ("ai_host", "http://h:99999/v1", "ai_host must be an http or https URL without credentials, query or fragment"),
        ("ai_host", "http://my host/v1", "ai_host must be an http or https URL without credentials, query or fragment"),
        ("ai_host", "http://[::1", "ai_host must be an http or https URL without credentials, query or fragment"),
        ("ai_host", "HTTP://host/v1", "ai_host must be an http or https URL without credentials, query or fragment"),
        ("llm_model", "no spaces", "llm_model must be a model name like gpt-4o-mini or vendor/model:tag"),
        ("ai_provder", "openai", "'ai_provder' is not a system setting; did you mean ai_provider?"),
        ("color", "red", "'color' is not a system setting; settings: ai_provider, ai_host"),
    ],
)
async def test_a_wrong_setting_is_refused_in_one_line(session, key, value, line):
    """The line has field, rule and value."""
    with pytest.raises(OperationsError) as refused:
        await put(session, {key: value}, keyring=NO_KEYS)

    assert str(refused.value).startswith(line)


@pytest.mark.parametrize("begins", KEY_PREFIXES)
@pytest.mark.parametrize("key", ["llm_model", "ai_host"])
async def test_no_door_keeps_a_key_in_the_clear(session, key, begins):
    """The database and the use-case refuse the same prefixes."""
    value = f"{begins}{'abcd' * 5}" if key == "llm_model" else f"https://host/v1/{begins}{'abcd' * 5}"

    with pytest.raises(OperationsError):
        await put(session, {key: value}, keyring=NO_KEYS)
    with pytest.raises(IntegrityError):
        await session.execute(
            text("INSERT INTO operations.system_settings (key, value) VALUES (:key, :value)"),
            {"key": key, "value": value},
        )


async def test_a_wrong_secret_is_not_quoted(session):
    """The refusal does not quote it either."""
    with pytest.raises(OperationsError) as refused:
        await put(session, {"openrouter_key": "sk or"}, keyring=Keyring([new_key()]))

    assert str(refused.value).endswith("got a hidden value")
    assert "sk or" not in str(refused.value)


async def test_a_secret_is_encrypted_at_rest_and_shown_nowhere(session):
    """The row holds a token, and the list only says that it is set."""
    keyring = Keyring([new_key()])
    await put(session, {"openrouter_key": SECRET}, keyring=keyring)

    token = await stored(session, "openrouter_key")
    [view] = await list_settings(session)

    assert SECRET not in token
    assert keyring.decrypt(token) == SECRET
    assert view.value == HIDDEN


async def test_a_secret_without_keys_is_refused_with_the_remedy(session):
    """Without a key, nothing is stored unencrypted."""
    with pytest.raises(OperationsError, match="GRISTMILL_SECRET_KEYS must be set"):
        await put(session, {"openai_key": SECRET}, keyring=NO_KEYS)

    assert await list_settings(session) == []


async def test_keys_rotate_without_losing_a_secret(session):
    """First both keys, then the rotation, then only the new key."""
    old, new = new_key(), new_key()
    await put(session, {"openai_key": SECRET}, keyring=Keyring([old]))
    with pytest.raises(OperationsError, match="no key of GRISTMILL_SECRET_KEYS decrypts it"):
        Keyring([new]).decrypt(await stored(session, "openai_key"))

    assert await rotate(session, keyring=Keyring([new, old])) == 1
    await session.flush()

    assert Keyring([new]).decrypt(await stored(session, "openai_key")) == SECRET


async def test_a_rotation_that_cannot_read_a_secret_names_it_and_changes_none(session):
    """All or none."""
    await put(session, {"openai_key": SECRET}, keyring=Keyring([new_key()]))

    with pytest.raises(OperationsError, match="openai_key: no key"):
        await rotate(session, keyring=Keyring([new_key()]))


def test_a_key_that_is_none_is_refused_without_being_quoted():
    """The form of the key is checked."""
    with pytest.raises(OperationsError, match="GRISTMILL_SECRET_KEYS must be keys of 32 bytes") as refused:
        Keyring(["not-a-key"])
    assert "not-a-key" not in str(refused.value)
    assert Fernet(new_key())


async def test_the_choice_is_what_the_settings_say(session):
    """The choice is None without a provider. The key is decrypted, and hidden in ``repr()``."""
    keyring = Keyring([new_key()])
    assert await read_choice(session, keyring=keyring) is None

    await put(session, {"ai_provider": "openrouter"}, keyring=keyring)
    await put(session, {"openrouter_key": SECRET}, keyring=keyring)
    await put(session, {"llm_model": "vendor/model:free"}, keyring=keyring)
    choice = await read_choice(session, keyring=keyring)

    assert choice is not None
    assert (choice.provider, choice.api_key, choice.llm_model) == ("openrouter", SECRET, "vendor/model:free")
    assert (choice.base_url, choice.embedding_model, choice.problem) == (None, None, None)
    assert SECRET not in repr(choice)


async def test_a_choice_that_cannot_be_followed_says_why(session):
    """There is no silent fallback to another provider."""
    keyring = Keyring([new_key()])
    await put(session, {"ai_provider": "openrouter"}, keyring=keyring)
    missing = await read_choice(session, keyring=keyring)
    await put(session, {"openrouter_key": SECRET}, keyring=Keyring([new_key()]))
    unreadable = await read_choice(session, keyring=keyring)

    assert missing is not None
    assert unreadable is not None
    assert (missing.problem or "").startswith("ai_provider is openrouter, which needs openrouter_key")
    assert (unreadable.problem or "").startswith("openrouter_key: no key of GRISTMILL_SECRET_KEYS decrypts it")


async def test_the_environments_key_goes_to_openai_itself_and_to_no_other_host(session):
    """Otherwise a person who may set a host could get the key."""
    await put(session, {"ai_provider": "openai"}, keyring=NO_KEYS)

    with_key = await read_choice(session, keyring=NO_KEYS, openai_key="sk-env")
    without = await read_choice(session, keyring=NO_KEYS)
    await put(session, {"ai_host": "https://elsewhere.test/v1"}, keyring=NO_KEYS)
    elsewhere = await read_choice(session, keyring=NO_KEYS, openai_key="sk-env")

    assert with_key is not None
    assert (with_key.api_key, with_key.problem) == ("sk-env", None)
    assert without is not None
    assert without.problem is not None
    assert elsewhere is not None
    assert (elsewhere.api_key, elsewhere.problem is None) == (None, False)


async def test_another_provider_is_not_sent_to_the_host_of_the_last(session):
    """The host is unset with its provider. The same provider keeps it, and a given host is used."""
    keyring = Keyring([new_key()])
    local = {"ai_provider": "lmstudio", "ai_host": "http://gpu:1234/v1"}
    await put(session, {**local, "openrouter_key": SECRET}, keyring=keyring)

    assert await put(session, {"ai_provider": "lmstudio"}, keyring=keyring) == []
    assert await put(session, {"ai_provider": "openrouter"}, keyring=keyring) == ["ai_host"]
    choice = await read_choice(session, keyring=keyring)
    assert choice is not None
    assert (choice.base_url, choice.api_key, choice.problem) == (None, SECRET, None)

    assert await put(session, local, keyring=keyring) == []
    assert await remove(session, "ai_provider") == ["ai_provider", "ai_host"]


async def test_several_settings_are_set_together_or_not_at_all(session):
    """If one breaks a rule, none is set."""
    with pytest.raises(OperationsError, match="llm_model must be a model name"):
        await put(session, {"ai_provider": "lmstudio", "llm_model": "no spaces"}, keyring=NO_KEYS)
    assert await list_settings(session) == []

    await put(session, {"ai_provider": "lmstudio", "llm_model": "llama"}, keyring=NO_KEYS)
    assert {one.key: one.value for one in await list_settings(session)} == {
        "ai_provider": "lmstudio",
        "llm_model": "llama",
    }


async def test_a_key_is_not_sent_in_the_clear(session):
    """A call of a hosted provider over http fails with the reason."""
    keyring = Keyring([new_key()])
    values = {"ai_provider": "openrouter", "openrouter_key": SECRET, "ai_host": "http://gpu:1234/v1"}
    await put(session, values, keyring=keyring)

    choice = await read_choice(session, keyring=keyring)

    assert choice is not None
    assert choice.problem == (
        "ai_provider is openrouter, and its key is sent to https only; ai_host is 'http://gpu:1234/v1'"
    )
    assert choice.api_key is None


async def test_models_without_a_provider_are_those_of_the_environments(session):
    """They take effect without setting the provider."""
    await put(session, {"embedding_model": "nomic-embed-text"}, keyring=NO_KEYS)

    choice = await read_choice(session, keyring=NO_KEYS, openai_key="sk-env")

    assert choice is not None
    assert (choice.provider, choice.embedding_model, choice.llm_model) == (None, "nomic-embed-text", None)
    assert (choice.base_url, choice.api_key, choice.problem) == (None, None, None)


async def test_what_is_removed_holds_no_more(session):
    """Once."""
    await put(session, {"ai_provider": "offline"}, keyring=NO_KEYS)

    assert await remove(session, "ai_provider") == ["ai_provider"]
    assert await remove(session, "ai_provider") == []
    assert await read_choice(session, keyring=NO_KEYS) is None
