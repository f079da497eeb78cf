"""Read what an answer to a request for embeddings carried over the wire. Pure."""

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from workers.llm.wire import count_in, error_in, json_object
from workers.runtime.handler.errors import BrokenVectors, Retryable, Unavailable, UnfitVectors
from workers.runtime.handler.ports import Embeddings

LARGEST_HALF = 65_504
SMALLEST_HALF = 2.0**-24
NOT_FINITE = "it has a number that is not finite in single precision"


def read(body: str, headers: Mapping[str, str] | None = None, *, texts: int, model: str) -> Embeddings:
    """Return one vector per text, in their order; raise the kernel's error where ``body`` does not hold them.

    Single precision, as they are stored. An answer that is broken is Retryable. Where texts have vectors that cannot be
    compared, by an index of half precision or at all, UnfitVectors or BrokenVectors tell which. Vectors are
    ``model``'s, the one that was asked: servers call it by many names.
    """
    raw = json_object(body)
    if raw.get("error") and not raw.get("data"):
        raise error_in(raw, headers)
    given = _ordered(raw.get("data"), texts)
    vectors = [_vector(one) for one in given]
    if len(lengths := {len(one) for one in vectors}) != 1:
        raise Retryable(f"provider answered with vectors of different lengths: {sorted(lengths)}")
    found = Embeddings(vectors, model, count_in(raw.get("usage"), "prompt_tokens", "total_tokens"))
    if reasons := {place: reason for place, one in enumerate(vectors) if (reason := unfit(one)) is not None}:
        raise (BrokenVectors if NOT_FINITE in reasons.values() else UnfitVectors)(found, reasons)
    return found


def unfit(vector: "array[float]") -> str | None:
    """Return why a vector cannot be compared; None where it can. The index keeps vectors in half precision."""
    largest = max(map(abs, vector))
    if not math.isfinite(math.fsum(vector)):
        return NOT_FINITE
    if largest > LARGEST_HALF:
        return f"it has a number out of half precision (±{LARGEST_HALF:,})"
    if largest < SMALLEST_HALF:
        return "it is zeros only" if largest == 0 else f"all its numbers are below half precision ({SMALLEST_HALF:.0e})"
    return None


def _ordered(data: object, texts: int) -> Sequence[Mapping[str, Any]]:
    """Return the answer's items in the order of the texts: by their index, where they have one."""
    items = [item for item in data if isinstance(item, Mapping)] if isinstance(data, list) else []
    if texts and not items:
        raise Unavailable("an answer without vectors")  # a server in trouble, whatever was asked
    if len(items) != texts:
        raise Retryable(f"provider answered with {len(items)} vectors for {texts} texts")
    places = [item.get("index") for item in items]
    if places == [None] * texts:
        return items
    by_place = {place: item for place, item in zip(places, items, strict=True) if isinstance(place, int)}
    if by_place.keys() != set(range(texts)):
        raise Retryable("provider answered with vectors that cannot be told apart: their indexes have gaps")
    return [by_place[place] for place in range(texts)]


def _vector(item: Mapping[str, Any]) -> "array[float]":
    numbers = item.get("embedding")
    try:
        made = array("f", numbers if isinstance(numbers, list) and bool not in set(map(type, numbers)) else [])
    except (TypeError, OverflowError):
        made = array("f")
    if not made:
        raise Retryable("provider answered with an embedding that is no list of numbers")
    return made
