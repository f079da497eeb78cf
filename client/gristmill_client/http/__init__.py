"""Enqueue and follow jobs over HTTP: :class:`Client` for threads, :class:`AsyncClient` for asyncio.

For tests without a gateway see :mod:`gristmill_client.testing`; for callbacks, :mod:`gristmill_client.webhooks`.
"""

from gristmill_client.http.awaiting import AsyncClient
from gristmill_client.http.blocking import Client
from gristmill_client.http.models import (
    EnqueuedJob,
    GatewayJob,
    JobCount,
    Progress,
    Result,
    StartedJob,
    Transition,
)
from gristmill_client.http.requests import new_key

__all__ = [
    "AsyncClient",
    "Client",
    "EnqueuedJob",
    "GatewayJob",
    "JobCount",
    "Progress",
    "Result",
    "StartedJob",
    "Transition",
    "new_key",
]
