"""Read from the system settings who is to answer, as plain values for whoever builds providers."""

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import SystemSetting
from workers.operations.keyring import Keyring
from workers.operations.refusals import OperationsError
from workers.runtime.refusals import quoted

# Providers that ask for a key.
HOSTED = frozenset({"openrouter", "openai"})


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """Which provider the operators chose. None: the provider's own. The key is shown in no representation.

    Without a ``provider`` it is the environment's, with the models that the operators chose.
    ``problem`` says in one line why the choice cannot be followed: calls must fail with it, rather than go elsewhere.
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
    """Return the choice that the settings make, or None where neither a provider nor a model is chosen.

    ``openai_key`` is the environment's, for OpenAI itself where the settings have none: it goes to no other host. No
    key goes anywhere in the clear.
    """
    rows = (await session.execute(select(SystemSetting.key, SystemSetting.value))).all()
    said = {row.key: row.value for row in rows}
    provider = said.get("ai_provider")
    models = {name: said.get(name) for name in ("llm_model", "embedding_model")}
    if provider is None:
        return ProviderChoice(None, None, None, **models) if any(models.values()) else None
    host = said.get("ai_host")
    key, problem = (openai_key if provider == "openai" and host is None else None), None
    if (token := said.get(f"{provider}_key")) is not None:
        try:
            key = keyring.decrypt(token)
        except OperationsError as error:
            problem = f"{provider}_key: {error}"
    elif provider in HOSTED and key is None:
        problem = f"ai_provider is {provider}, which needs {provider}_key; set it with `gristmill settings set`"
    if provider in HOSTED and host is not None and not host.startswith("https://"):
        problem = f"ai_provider is {provider}, whose key is sent to https only; ai_host is {quoted(host)}"
        key = None
    return ProviderChoice(provider, host, key, **models, problem=problem)
