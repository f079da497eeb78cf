"""The errors that this package raises. Each message is one line."""


class GristmillError(Exception):
    """Any error of this package."""


class Refused(GristmillError):
    """Gristmill refuses the request: ``field`` breaks ``rule``. Nothing was enqueued.

    ``value`` quotes what was given, in at most 80 characters. ``position`` is the place of the job among many, from 0.
    ``code`` says why: ``invalid``, ``key_taken`` (the key, or a name that must be new, is taken), ``unknown_stage``, or
    ``forbidden``.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        rule: str | None = None,
        value: str | None = None,
        remedy: str | None = None,
        position: int = 0,
        code: str = "invalid",
    ) -> None:
        super().__init__(message)
        self.field = field
        self.rule = rule
        self.value = value
        self.remedy = remedy
        self.position = position
        self.code = code


class NotPossible(GristmillError):
    """The call cannot work like this, whatever the job is: for example, to wait inside an open transaction."""
