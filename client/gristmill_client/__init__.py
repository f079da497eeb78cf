"""Enqueue jobs of Gristmill from a service, and follow them. ``gristmill_client.sql`` works in your own transaction."""

from gristmill_client.errors import GristmillError, NotPossible, Refused
from gristmill_client.models import Enqueued, Job, NewJob, Outcome

__all__ = ["Enqueued", "GristmillError", "Job", "NewJob", "NotPossible", "Outcome", "Refused"]
