"""The batch lane of a worker, made from the settings and the routes."""

from datetime import timedelta

from config.settings import Settings
from workers.llm.admission.prices import NoPrices, Prices
from workers.llm.batch_lane.apis import BatchProvider
from workers.llm.batch_lane.postgres_batches import PostgresBatches
from workers.llm.batch_lane.providers import batch_provider
from workers.llm.controlled import ControlledModel
from workers.runtime.database import Database
from workers.runtime.handler.batches import Polls

# Uploads and downloads of a whole batch, in seconds.
BATCH_TIMEOUT_SECONDS = 600.0


def make_batches(
    settings: Settings, *, database_url: str, name: str, model: ControlledModel, prices: Prices | None = None
) -> PostgresBatches:
    """Return the batches of a worker; nothing is opened before the first. ``model`` follows the routes."""
    database = Database(database_url, changed_by=name, pool_size=1)

    async def provider_of(provider: str) -> BatchProvider | None:
        return batch_provider(await model.routing(), provider)

    return PostgresBatches(
        database,
        provider_of=provider_of,
        prices=prices or NoPrices(),
        connect_timeout=settings.llm.connect_timeout_seconds,
        timeout=BATCH_TIMEOUT_SECONDS,
        polls=Polls(
            first=timedelta(seconds=settings.llm.batch_poll_seconds),
            longest=timedelta(seconds=settings.llm.batch_max_poll_seconds),
        ),
        free=database.close,
    )
