"""Read from the system settings who is to answer, as plain values for whoever builds providers."""

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import SystemSetting
from workers.operations.keyring import Keyring
from workers.operations.refusals import OperationsError


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """Which provider the operators chose. None: what the environment says. The key is shown in no representation.

    ``problem`` says in one line why the choice cannot be followed: calls must fail with it, rather than go elsewhere.
    """

    provider: str
    base_url: str | None
    api_key: str | None = field(repr=False)
    llm_model: str | None
    embedding_model: str | None
    problem: str | None = None


async def read_choice(
    session: AsyncSession, *, keyring: Keyring, openai_key: str | None = None
) -> ProviderChoice | None:
    """Return the choice that the settings make, or None where no provider is chosen.

    ``openai_key`` is the environment's, for OpenAI where the settings have none.
    """
    rows = (await session.execute(select(SystemSetting.key, SystemSetting.value))).all()
    said = {row.key: row.value for row in rows}
    provider = said.get("ai_provider")
    if provider is None:
        return None
    key, problem = (openai_key, None) if provider == "openai" else (None, None)
    if (token := said.get(f"{provider}_key")) is not None:
        try:
            key = keyring.decrypt(token)
        except OperationsError as error:
            problem = f"{provider}_key: {error}"
    elif provider in {"openrouter", "openai"} and key is None:
        problem = f"ai_provider is {provider}, which needs {provider}_key; set it with `gristmill settings set`"
    return ProviderChoice(
        provider=provider,
        base_url=said.get("ai_host"),
        api_key=key,
        llm_model=said.get("llm_model"),
        embedding_model=said.get("embedding_model"),
        problem=problem,
    )
