"""The one error of the embedded servers."""


class EmbeddedError(Exception):
    """The embedded servers cannot do what was asked; the message is one line that says why and what to do."""
