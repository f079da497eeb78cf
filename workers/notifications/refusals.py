"""The refusals of this room: exceptions with one clear line each."""

from uuid import UUID

from workers.runtime.refusals import Conflict, NotFound, Problem, Refusal


class CallbackError(Refusal, ValueError):
    """What was asked breaks a rule; the line names the field, the rule and the value."""


class UnknownEndpoint(NotFound):
    """No endpoint of the caller has that id."""

    def __init__(self, endpoint_id: UUID) -> None:
        super().__init__(Problem("endpoint", "must be the id of an endpoint", str(endpoint_id)))


class UnknownDelivery(NotFound):
    """No delivery of the caller has that id."""

    def __init__(self, delivery_id: UUID) -> None:
        super().__init__(Problem("delivery", "must be the id of a delivery", str(delivery_id)))


class NotEnded(Conflict):
    """The delivery is still under way."""
