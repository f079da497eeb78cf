"""Features that can be counted in a text without a model. Offline rules compute scores from them. Pure.

Every feature is a share from 0 to 1. If relevant text is added, coverage, specificity, structure and length never
fall. Repetition and forbidden terms lower the score.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MAX_DEPTH = 8
MIN_STEM_CHARACTERS = 4

_WORD = re.compile(r"[a-zA-ZÀ-ÿ]{3,}")
# Words of any script. In scripts without spaces between words, two characters count as one word.
_ANY_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\u0e00-\u0e7f]{1,2}|[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|_")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# Numbers, versions, links, names in capitals or in code marks: concrete details.
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
# Words of the same meaning; the first word stands for its group. Compared as stems.
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


# The highest score for a text that has none of the criterion's words. It measures only the amount of text.
MAX_SCORE_BY_AMOUNT = 40.0


@dataclass(frozen=True, slots=True)
class ProfilePassage:
    """One sentence or line of a profile's field. It is analysed once and used for all criteria."""

    path: str
    text: str
    words: tuple[str, ...]
    terms: frozenset[str]
    specifics: frozenset[str]
    structured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The features of the passages that are relevant to one criterion."""

    coverage: float
    specificity: float
    structure: float
    length: float
    repetition: float
    found: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def score(self) -> float:
        """The weighted sum of the features, from 0 to 100. Repetition takes away up to half."""
        shown = 0.50 * self.coverage + 0.20 * self.specificity + 0.10 * self.structure + 0.20 * self.length
        return round(100 * shown * (1 - 0.5 * self.repetition), 1)


def read_passages(value: Any, *, path: str = "", depth: int = 0) -> list[ProfilePassage]:
    """Return all passages of the texts in ``value``. Empty values and values nested too deeply are skipped."""
    if depth > MAX_DEPTH:
        return []
    match value:
        case Mapping():
            pairs = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
            return [passage for key, item in pairs for passage in read_passages(item, path=key, depth=depth + 1)]
        case list() | tuple():
            return [passage for item in value for passage in read_passages(item, path=path, depth=depth + 1)]
        case None | False:
            return []
        case _:
            on_path = terms_of(_CAMEL.sub(" ", path))
            lines = (line for line in _SENTENCE.split(str(value)) if line.strip())
            return [_read_passage(path, line, on_path) for line in lines]


def terms_of(text: str) -> frozenset[str]:
    """Return the significant words of ``text`` as stems; a synonym is replaced by the first word of its group."""
    return frozenset(stem for word in _WORD.findall(text.lower()) if (stem := _term(word)))


def measure(key_terms: frozenset[str], profile: Sequence[ProfilePassage]) -> Features:
    """Measure the passages of ``profile`` that mention one of a criterion's ``key_terms``."""
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
    """The amount of text in a profile, for any criterion.

    ``words`` counts each word once, ``all_words`` counts every occurrence, ``shaped`` counts fields and list items.
    """

    words: int
    all_words: int
    specifics: int
    shaped: int

    @property
    def score(self) -> float:
        """The score for the amount alone: a few points for a line, at most :data:`MAX_SCORE_BY_AMOUNT`."""
        if not self.words:
            return 0.0
        shown = 0.5 * _saturating(self.words, half=40) + 0.3 * _saturating(self.specifics, half=4)
        return round(MAX_SCORE_BY_AMOUNT * (shown + 0.2 * _saturating(self.shaped, half=3)), 1)


def amount(profile: Sequence[ProfilePassage]) -> Amount:
    """Measure the amount of text in ``profile``."""
    words = [word for passage in profile for word in _ANY_WORD.findall(passage.text.lower())]
    specifics = frozenset[str]().union(*(passage.specifics for passage in profile))
    shaped = sum(passage.structured for passage in profile) + len({passage.path for passage in profile})
    return Amount(len(set(words)), len(words), len(specifics), shaped)


def snippets(key_terms: frozenset[str], profile: Sequence[ProfilePassage], *, at_most: int, width: int) -> list[str]:
    """Return quotes from the profile as ``path: "text"``, those with the most key terms first."""
    relevant = [passage for passage in profile if passage.terms & key_terms]
    relevant.sort(key=lambda passage: -len(passage.terms & key_terms))
    quotes: dict[str, None] = {}
    for passage in relevant:
        line = " ".join(passage.text.split())
        quotes[f'{passage.path}: "{line[:width]}{"…" if len(line) > width else ""}"'] = None
        if len(quotes) == at_most:
            break
    return list(quotes)


def forbidden_terms(profile: Iterable[ProfilePassage]) -> tuple[str, ...]:
    """Return filler text and instructions to the judge that occur in the profile: lower case, each once."""
    hits = (match.group().lower() for passage in profile for match in _FORBIDDEN.finditer(passage.text))
    return tuple(sorted(set(hits)))


def repetition(words: Sequence[str]) -> float:
    """Return the share of three-word sequences that occur again; ordinary prose stays near 0."""
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _read_passage(path: str, text: str, on_path: frozenset[str]) -> ProfilePassage:
    words = tuple(_WORD.findall(text.lower()))
    terms = on_path.union(stem for word in words if (stem := _term(word)))
    specifics = frozenset(_SPECIFIC.findall(text))
    return ProfilePassage(path, text, words, terms, specifics, _STRUCTURE.match(text) is not None)


@lru_cache(maxsize=16_384)
def _term(word: str) -> str:
    """Return the stem of a lower-case word or of its synonym group; an empty text for an insignificant word."""
    if word in _STOP:
        return ""
    stem = _stem(word)
    return _SYNONYM_OF.get(stem, stem)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= MIN_STEM_CHARACTERS:
            return word.removesuffix(ending)
    return word


def _saturating(count: int, *, half: int) -> float:
    """Return 0 for a count of 0, one half for ``half``, and close to 1 for a large count."""
    return count / (count + half)


_SYNONYM_OF = {_stem(word): _stem(group[0]) for group in _SYNONYMS for word in group}
