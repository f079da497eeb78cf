"""Detect text that looks like a secret key in a field for other values. It is refused and never quoted. Pure."""

import re
from itertools import pairwise

# Prefixes of the keys of providers and code hosts.
_BEGINS = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:[sp]k-|[spr]k_|gsk_|xai-|hf_|nvapi-|AIza|AQ\.|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA"
    r"|gm_|whsec_|eyJ)[A-Za-z0-9_-]{8,}"
)
_RUN = re.compile(r"[A-Za-z0-9_-]{20,}")
_MIN_LETTERS = 20
# Hexadecimal text is often a hash or an id, for example a model revision or an account in a URL. If it is the whole
# value, it may be a key.
_HEXADECIMAL = re.compile(r"[0-9a-f-]+|[0-9A-F-]+")
_MIN_HEXADECIMAL = 32
# Measured: in random letters and digits, half of all neighbours are of different classes; in 1,900 model names at most
# a quarter. Names have many separators, tokens almost none.
_MIN_CHANGES = 0.22
_MAX_SEPARATORS = 0.1


def looks_secret(value: str) -> bool:
    """Tell whether ``value`` contains a known key prefix, or a long token that looks random."""
    if _BEGINS.search(value):
        return True
    if len(value) >= _MIN_HEXADECIMAL and value.isalnum() and _HEXADECIMAL.fullmatch(value):
        return True
    return any(_is_random(run) for run in _RUN.findall(value))


def _is_random(run: str) -> bool:
    letters = sum(map(str.isalnum, run))
    if letters < _MIN_LETTERS or _HEXADECIMAL.fullmatch(run) or len(run) - letters > _MAX_SEPARATORS * len(run):
        return False
    changes = sum(_changes(one, other) for one, other in pairwise(run))
    return changes >= _MIN_CHANGES * letters


def _changes(one: str, other: str) -> bool:
    """Tell whether the character class changes. A capital followed by a small letter is no change."""
    if not (one.isalnum() and other.isalnum()):
        return False
    return _class(one) != _class(other) and not (one.isupper() and other.islower())


def _class(char: str) -> str:
    return "digit" if char.isdigit() else "capital" if char.isupper() else "small"
