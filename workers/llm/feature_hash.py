"""The embedder that needs no model: words, word pairs and character trigrams, hashed into one vector. Pure.

Texts that share words come out close, whatever they mean: it finds near duplicates and common vocabulary, not
paraphrases. The same text gives the same vector on every machine and in every release of this name.
"""

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from zlib import crc32

MODEL = "offline-hash-v1"
DIMENSIONS = 384

WORD_WEIGHT, PAIR_WEIGHT, TRIGRAM_WEIGHT = 1.0, 0.7, 0.35
# Short words are mostly grammar; without a corpus nothing else says how common a word is.
SHORT, SHORT_WEIGHT = 3, 0.3

_WORD = re.compile(r"\w+")
_MIX, _32_BITS = 0x9E3779B1, 0xFFFFFFFF


def vector(text: str) -> "array[float]":
    """Return the unit vector of ``text``; raise ValueError where there is nothing in it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    made = [0.0] * DIMENSIONS
    for feature, times in Counter(_features(_WORD.findall(folded) or folded.split())).items():
        place, weight = _placed(feature)
        made[place] += weight if times == 1 else weight * (1.0 + math.log(times))  # twice as often: a little more of it
    length = math.sqrt(math.fsum(value * value for value in made))
    if not length:
        raise ValueError("a text without any character has no direction")
    return array("f", [value / length for value in made])


def _features(words: list[str]) -> Iterator[str]:
    """Yield each feature under a mark of its kind, so that the kinds never share one."""
    for word in words:
        yield f"w{word}"
        padded = f"<{word}>"
        for start in range(len(padded) - 2):
            yield f"t{padded[start : start + 3]}"
    for first, second in pairwise(words):
        yield f"p{first} {second}"


@lru_cache(maxsize=1 << 14)
def _placed(feature: str) -> tuple[int, float]:
    """Return where a feature counts and how much, for or against."""
    match feature[0]:
        case "w":
            weight = SHORT_WEIGHT if len(feature) <= SHORT + 1 else WORD_WEIGHT
        case "p":
            weight = PAIR_WEIGHT
        case _:
            weight = TRIGRAM_WEIGHT
    # CRC is linear: mixed, neighbouring features do not fall on neighbouring places.
    mixed = crc32(feature.encode("utf-8", "replace")) * _MIX & _32_BITS
    return (mixed >> 1) % DIMENSIONS, weight if mixed >> 31 else -weight
