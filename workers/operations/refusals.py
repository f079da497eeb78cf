"""The refusals of this room: exceptions with one clear line each."""

from workers.runtime.refusals import Conflict, NotFound, Refusal


class OperationsError(Refusal, ValueError):
    """The request breaks a rule; the line names field, rule and value."""


class NameTaken(Conflict):
    """Another user has a project of that name. Names are unique across all users."""


class UnknownProject(NotFound):
    """No project has that name or id."""


class UnknownRecord(NotFound):
    """No record has that id."""


class UnknownWindow(NotFound):
    """No bonus window has that id."""
