"""The two kinds of failure that decide a job's fate; :mod:`workers.runtime.handler.errors` has all others."""


class Retryable(Exception):
    """Worth another attempt: a timeout, a lost connection, a server's 5xx."""


class Permanent(Exception):
    """No attempt can succeed: invalid input, refused credentials, refused content."""
