"""Read the choice of the provider from the system settings, as plain values for the code that builds providers."""

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import SystemSetting
from workers.operations.keyring import Keyring
from workers.operations.refusals import OperationsError
from workers.runtime.refusals import quoted

# Providers that require a key.
HOSTED = frozenset({"openrouter", "openai"})


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """The provider that the operators chose. None means the provider's own default. ``repr()`` hides the key.

    Without a ``provider``, the environment's provider is used with the chosen models. ``problem`` says in one line why
    the choice cannot be used. Then calls must fail with it and must not use another provider.
    """

    provider: str | None
    base_url: str | None
    api_key: str | None = field(repr=False)
    llm_model: str | None
    embedding_model: str | None
    problem: str | None = None


async def read_choice(
    session: AsyncSession, *, keyring: Keyring, openai_key: str | None = None
) -> ProviderChoice | None:
    """Return the choice in the settings, or None if neither a provider nor a model is chosen.

    ``openai_key`` is the key of the environment. It is used for OpenAI itself if the settings have no key, and is never
    sent to another host. No key is sent unencrypted.
    """
    rows = (await session.execute(select(SystemSetting.key, SystemSetting.value))).all()
    values = {row.key: row.value for row in rows}
    provider = values.get("ai_provider")
    models = {name: values.get(name) for name in ("llm_model", "embedding_model")}
    if provider is None:
        return ProviderChoice(None, None, None, **models) if any(models.values()) else None
    host = values.get("ai_host")
    key, problem = (openai_key if provider == "openai" and host is None else None), None
    if (token := values.get(f"{provider}_key")) is not None:
        try:
            key = keyring.decrypt(token)
        except OperationsError as error:
            problem = f"{provider}_key: {error}"
    elif provider in HOSTED and key is None:
        problem = f"ai_provider is {provider}, which needs {provider}_key; set it with `gristmill settings set`"
    if provider in HOSTED and host is not None and not host.startswith("https://"):
        problem = f"ai_provider is {provider}, and its key is sent to https only; ai_host is {quoted(host)}"
        key = None
    return ProviderChoice(provider, host, key, **models, problem=problem)
