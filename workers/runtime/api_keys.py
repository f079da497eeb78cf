"""API keys: their form, their hash, and the closed list of what a key may do. Pure, without the database.

A key is ``gm_``, 30 random base62 characters (178 bits) and 6 base62 characters of their CRC32. So a wrongly copied key
is refused without a query, and scanners of source code recognise a key. Only its SHA-256 is stored. A slow hash would
protect nothing, because nobody can guess 178 random bits.
"""

import secrets
import string
import zlib
from collections.abc import Iterable
from hashlib import sha256

PREFIX = "gm_"
RANDOM_CHARACTERS = 30
CHECK_CHARACTERS = 6
# Shown in lists, so that a person who finds a key somewhere knows which one to revoke.
HINT_CHARACTERS = len(PREFIX) + 4
# ASCII order, as the alphabet of GitHub's tokens.
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LENGTH = len(PREFIX) + RANDOM_CHARACTERS + CHECK_CHARACTERS
_CHARACTERS = frozenset(_ALPHABET)

# `X` allows reading and writing the routes of X, `X:read` only reading.
DOMAIN_SCOPES = ("scoring", "operations", "assessments", "callbacks")
# The routes of jobs. Writing does not include reading: a service that only enqueues sees no results.
JOB_SCOPES = ("jobs:read", "jobs:write")
# They act in the database as gristmill_operator, which sees the rows of all users.
OPERATOR_SCOPES = ("operate", "operate:read", "admin")
SCOPES = (*JOB_SCOPES, *(scope for name in DOMAIN_SCOPES for scope in (name, f"{name}:read")), *OPERATOR_SCOPES)


def new_api_key() -> str:
    """Return a random key."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return PREFIX + random + _checksum(PREFIX + random)


def is_api_key(text: str) -> bool:
    """Tell whether ``text`` has the form of a key and the right checksum; about 1 of 4 billion wrong keys has it."""
    if len(text) != _LENGTH or not text.startswith(PREFIX) or not _CHARACTERS.issuperset(text[len(PREFIX) :]):
        return False
    return text[-CHECK_CHARACTERS:] == _checksum(text[:-CHECK_CHARACTERS])


def hash_of(key: str) -> bytes:
    """Return the SHA-256 under which the database finds the key."""
    return sha256(key.encode()).digest()


def hint_of(key: str) -> str:
    """Return the beginning of a key. 154 random bits remain secret."""
    return key[:HINT_CHARACTERS]


def allows(scopes: Iterable[str], wanted: str) -> bool:
    """Tell whether a caller with ``scopes`` may do what needs the scope ``wanted``.

    ``scoring`` includes ``scoring:read``, and ``admin`` includes everything. ``jobs:write`` does not include
    ``jobs:read``.
    """
    held = frozenset(scopes)
    return wanted in held or "admin" in held or wanted.removesuffix(":read") in held


def only_reads(scopes: Iterable[str]) -> bool:
    """Tell whether none of ``scopes`` allows writing."""
    return all(scope.endswith(":read") for scope in scopes)


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode("ascii")), ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits.rjust(CHECK_CHARACTERS, _ALPHABET[0])
