"""Enqueue jobs of Gristmill from a service, and follow them.

``gristmill_client.http`` works over HTTP, ``gristmill_client.sql`` in your own transaction.
``gristmill_client.testing`` is a gateway in memory for your tests; ``gristmill_client.webhooks`` verifies callbacks.
"""

from gristmill_client.errors import (
    BadSignature,
    Conflict,
    Failed,
    FieldError,
    Forbidden,
    GristmillError,
    NotFound,
    NotPossible,
    RateLimited,
    Refused,
    Stale,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
)
from gristmill_client.models import Enqueued, Job, NewJob, Outcome

__all__ = [
    "BadSignature",
    "Conflict",
    "Enqueued",
    "Failed",
    "FieldError",
    "Forbidden",
    "GristmillError",
    "Job",
    "NewJob",
    "NotFound",
    "NotPossible",
    "Outcome",
    "RateLimited",
    "Refused",
    "Stale",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
]
