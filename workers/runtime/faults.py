"""The two kinds of failure of a job; :mod:`workers.runtime.handler.errors` has all others."""


class Retryable(Exception):
    """Another attempt may succeed: a timeout, a lost connection, a server's 5xx."""


class Permanent(Exception):
    """No attempt can succeed: invalid input, refused credentials, refused content."""
