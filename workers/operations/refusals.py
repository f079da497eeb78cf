"""Why this room refuses, as exceptions with one clear line each."""

from workers.runtime.refusals import Conflict, NotFound, Refusal


class OperationsError(Refusal, ValueError):
    """What was asked breaks a rule; the line names the field, the rule and the value."""


class NameTaken(Conflict):
    """Another user has a project of that name: names are unique among all."""


class UnknownProject(NotFound):
    """No project has that name or id."""


class UnknownRecord(NotFound):
    """No record has that id."""


class UnknownWindow(NotFound):
    """No bonus window has that id."""
