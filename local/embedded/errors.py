"""The one error of the embedded servers."""

from workers.runtime.refusals import Failed


class EmbeddedError(Failed):
    """The embedded servers failed. The message is one line that says why and what to do."""
