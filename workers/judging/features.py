"""What can be counted in a text without understanding it: the features that offline rules score by. Pure.

Every feature is a share from 0 to 1. Coverage, specificity, structure and length never fall when something relevant
is added; repetition and forbidden terms take away.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MAX_DEPTH = 8
SHORTEST_STEM = 4

_WORD = re.compile(r"[a-zA-ZÀ-ÿ]{3,}")
# Words of any script. Where words are written without spaces between them, two characters count as one.
_ANY_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\u0e00-\u0e7f]{1,2}|[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|_")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# Numbers and versions, links, names in capitals or code marks: what only someone who knows the thing would write.
_SPECIFIC = re.compile(r"https?://[^\s)>\"']+|`[^`\n]+`|\b\d[\w.:-]*|\b[A-Z][a-z]+[A-Z]\w*|\b[A-Z]{2,}\b")
_STRUCTURE = re.compile(r"\s*(#{1,6}\s|[-*+]\s|\d+[.)]\s|```)")
_FORBIDDEN = re.compile(
    r"lorem ipsum|\b(?:tbd|asdf|placeholder text|coming soon)\b"
    r"|ignore (?:all |any |the )*(?:previous|prior|above) instructions"
    r"|(?:score|rate|give) (?:me|this|it)[^.\n]{0,40}\b100\b",
    re.IGNORECASE,
)
_STOP = frozenset(
    _WORD.findall(
        "the and for with that this from are was has have its not but can who whom what which how why when where does "
        "into than then also any all each other such must may should would could will one two more most very their "
        "there they them your our out over about only same some states whether name named tell tells says say long "
        "short good"
    )
)
# Words of the same meaning, each group by its first. Compared as stems.
_SYNONYMS = (
    ("documentation", "docs", "doc", "readme", "manual", "guide", "description"),
    ("license", "licence", "licensed", "licensing", "copyright"),
    ("repository", "repo", "github", "gitlab", "source", "sources"),
    ("issue", "issues", "bug", "bugs", "tracker", "ticket"),
    ("homepage", "website", "site"),
    ("install", "installation", "installing", "setup", "pip"),
    ("example", "examples", "usage", "quickstart", "tutorial", "demo"),
    ("release", "released", "releases", "version", "versions", "changelog", "changes", "history"),
    ("author", "maintainer", "maintainers", "contact", "email"),
    ("contribute", "contributing", "contribution", "contributor"),
    ("test", "tests", "testing", "tested", "ci", "coverage"),
    ("stable", "production", "mature", "maintained", "active"),
    ("evidence", "proof", "result"),
    ("link", "url"),
)


# What can be said of a text that speaks to no criterion in the criterion's words: that much there is of it, at most.
MOST_BY_AMOUNT = 40.0


@dataclass(frozen=True, slots=True)
class Passage:
    """One sentence or line of a profile's value, with the path of its field, read once for all criteria."""

    path: str
    text: str
    words: tuple[str, ...]
    terms: frozenset[str]
    specifics: frozenset[str]
    structured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The features of the part of a profile that speaks to one criterion."""

    coverage: float
    specificity: float
    structure: float
    length: float
    repetition: float
    found: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def score(self) -> float:
        """The weighted sum of the features from 0 to 100, up to half of it lost to repetition."""
        shown = 0.50 * self.coverage + 0.20 * self.specificity + 0.10 * self.structure + 0.20 * self.length
        return round(100 * shown * (1 - 0.5 * self.repetition), 1)


def passages(value: Any, *, path: str = "", depth: int = 0) -> list[Passage]:
    """Return every passage of the texts below ``value``; emptiness is no evidence, nor is what lies too deep."""
    if depth > MAX_DEPTH:
        return []
    match value:
        case Mapping():
            pairs = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
            return [passage for key, item in pairs for passage in passages(item, path=key, depth=depth + 1)]
        case list() | tuple():
            return [passage for item in value for passage in passages(item, path=path, depth=depth + 1)]
        case None | False:
            return []
        case _:
            on_path = terms_of(_CAMEL.sub(" ", path))
            lines = (line for line in _SENTENCE.split(str(value)) if line.strip())
            return [_passage(path, line, on_path) for line in lines]


def terms_of(text: str) -> frozenset[str]:
    """Return the significant words of ``text``, reduced to stems and to the first of their synonyms."""
    return frozenset(stem for word in _WORD.findall(text.lower()) if (stem := _term(word)))


def measure(key_terms: frozenset[str], profile: Sequence[Passage]) -> Features:
    """Measure how ``profile`` speaks to a criterion described by ``key_terms``: by what mentions one of them."""
    relevant = [passage for passage in profile if passage.terms & key_terms]
    words = [word for passage in relevant for word in passage.words]
    found = frozenset[str]().union(*(passage.terms & key_terms for passage in relevant))
    specifics = frozenset[str]().union(*(passage.specifics for passage in relevant))
    shaped = sum(passage.structured for passage in relevant) + len({passage.path for passage in relevant})
    return Features(
        coverage=len(found) / len(key_terms) if key_terms else 0.0,
        specificity=_saturating(len(specifics), half=4),
        structure=_saturating(shaped, half=3),
        length=_saturating(len(set(words)), half=40),
        repetition=repetition(words),
        found=tuple(sorted(found)),
        missing=tuple(sorted(key_terms - found)),
    )


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a profile says at all, whatever the criterion.

    ``words`` counts each word once, ``all_words`` counts all of them; ``shaped`` counts fields and list items.
    """

    words: int
    all_words: int
    specifics: int
    shaped: int

    @property
    def score(self) -> float:
        """The amount on the scale from 0 to 100: a few points for a line, never as much as a text to the point."""
        if not self.words:
            return 0.0
        shown = 0.5 * _saturating(self.words, half=40) + 0.3 * _saturating(self.specifics, half=4)
        return round(MOST_BY_AMOUNT * (shown + 0.2 * _saturating(self.shaped, half=3)), 1)


def amount(profile: Sequence[Passage]) -> Amount:
    """Measure how much ``profile`` says at all; repeated words count once."""
    words = [word for passage in profile for word in _ANY_WORD.findall(passage.text.lower())]
    specifics = frozenset[str]().union(*(passage.specifics for passage in profile))
    shaped = sum(passage.structured for passage in profile) + len({passage.path for passage in profile})
    return Amount(len(set(words)), len(words), len(specifics), shaped)


def snippets(key_terms: frozenset[str], profile: Sequence[Passage], *, at_most: int, width: int) -> list[str]:
    """Return quotes of the profile, each ``path: "text"``, those with the most key terms first."""
    relevant = [passage for passage in profile if passage.terms & key_terms]
    relevant.sort(key=lambda passage: -len(passage.terms & key_terms))
    quotes: dict[str, None] = {}
    for passage in relevant:
        line = " ".join(passage.text.split())
        quotes[f'{passage.path}: "{line[:width]}{"…" if len(line) > width else ""}"'] = None
        if len(quotes) == at_most:
            break
    return list(quotes)


def forbidden_terms(profile: Iterable[Passage]) -> tuple[str, ...]:
    """Return the filler and the instructions to the judge that the profile holds, lower case, each once."""
    hits = (match.group().lower() for passage in profile for match in _FORBIDDEN.finditer(passage.text))
    return tuple(sorted(set(hits)))


def repetition(words: Sequence[str]) -> float:
    """Return the share of three-word runs that were said before; ordinary prose stays near 0."""
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _passage(path: str, text: str, on_path: frozenset[str]) -> Passage:
    words = tuple(_WORD.findall(text.lower()))
    terms = on_path.union(stem for word in words if (stem := _term(word)))
    specifics = frozenset(_SPECIFIC.findall(text))
    return Passage(path, text, words, terms, specifics, _STRUCTURE.match(text) is not None)


@lru_cache(maxsize=16_384)
def _term(word: str) -> str:
    """Return the stem a lower-case word stands for, or nothing for a word without significance."""
    if word in _STOP:
        return ""
    stem = _reduced(word)
    return _SYNONYM_OF.get(stem, stem)


def _reduced(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            return word.removesuffix(ending)
    return word


def _saturating(count: int, *, half: int) -> float:
    """Return 0 for none, one half at ``half``, towards 1 for many."""
    return count / (count + half)


_SYNONYM_OF = {_reduced(word): _reduced(group[0]) for group in _SYNONYMS for word in group}
