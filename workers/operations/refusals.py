"""Why this room refuses, as exceptions with one clear line each."""


class OperationsError(ValueError):
    """What was asked breaks a rule; the line names the field, the rule and the value."""


class NotFoundError(LookupError):
    """Nothing has that name or id (any more)."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownProject(NotFoundError):
    """No project has that name or id."""


class UnknownRecord(NotFoundError):
    """No record has that id."""


class UnknownWindow(NotFoundError):
    """No bonus window has that id."""
