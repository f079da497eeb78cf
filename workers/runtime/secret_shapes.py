"""Tell what looks like somebody's key, where none is meant: it is refused, and never quoted. Pure."""

import re
from itertools import pairwise

# How keys of providers and of code hosts begin.
_BEGINS = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:[sp]k-|[spr]k_|gsk_|xai-|hf_|nvapi-|AIza|AQ\.|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA"
    r"|eyJ)[A-Za-z0-9_-]{8,}"
)
_RUN = re.compile(r"[A-Za-z0-9_-]{20,}")
_LEAST_CHARS = 20
# Hashes and ids name things: revisions of models, accounts in a URL's path. Alone they may be a key.
_HEXADECIMAL = re.compile(r"[0-9a-f-]+|[0-9A-F-]+")
_LEAST_HEXADECIMAL = 32
# Measured: of random letters and digits half the neighbours are of different classes, of 1,900 names of models at most
# a quarter. Names have a separator after every few characters, tokens almost none.
_LEAST_CHANGES = 0.22
_MOST_SEPARATORS = 0.1


def looks_secret(value: str) -> bool:
    """Tell whether ``value`` holds what begins as keys do, or a long token that nobody would choose as a name."""
    if _BEGINS.search(value):
        return True
    if len(value) >= _LEAST_HEXADECIMAL and value.isalnum() and _HEXADECIMAL.fullmatch(value):
        return True
    return any(_is_random(run) for run in _RUN.findall(value))


def _is_random(run: str) -> bool:
    letters = sum(map(str.isalnum, run))
    if letters < _LEAST_CHARS or _HEXADECIMAL.fullmatch(run) or len(run) - letters > _MOST_SEPARATORS * len(run):
        return False
    changes = sum(_changes(one, other) for one, other in pairwise(run))
    return changes >= _LEAST_CHANGES * letters


def _changes(one: str, other: str) -> bool:
    """Tell whether the class changes, other than from a capital to the small letters of its word."""
    if not (one.isalnum() and other.isalnum()):
        return False
    return _class(one) != _class(other) and not (one.isupper() and other.islower())


def _class(char: str) -> str:
    return "digit" if char.isdigit() else "capital" if char.isupper() else "small"
