"""How records are cut into requests for embeddings."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.handler.ports import EmbeddingLimits
from workers.vectorization.batches import Pending, cut

TEXTS = st.lists(st.text(min_size=1, max_size=60), max_size=40)
LIMITS = st.builds(EmbeddingLimits, texts=st.integers(1, 10), tokens=st.integers(1, 80))


def records_of(texts):
    return [Pending(UUID(int=number), text) for number, text in enumerate(texts)]


@given(TEXTS, LIMITS)
def test_each_record_is_in_one_request_within_the_limits(texts, limits):
    """A text that exceeds the limit of tokens by itself is alone."""
    records = records_of(texts)

    requests = list(cut(records, limits))

    assert sorted(one.id for request in requests for one in request) == [one.id for one in records]
    for request in requests:
        assert 1 <= len(request) <= limits.texts
        assert len(request) == 1 or sum(one.tokens for one in request) <= limits.tokens


@given(TEXTS, LIMITS)
def test_texts_of_a_request_are_alike_in_length(texts, limits):
    """No request has a text longer than one of an earlier request."""
    requests = list(cut(records_of(texts), limits))

    tokens = [one.tokens for request in requests for one in request]
    assert tokens == sorted(tokens, reverse=True)


def test_tokens_are_estimated_by_bytes_and_not_by_letters():
    """Scripts of many bytes per letter have many tokens per letter."""
    assert Pending(UUID(int=0), "море" * 30).tokens == 81
    assert Pending(UUID(int=0), "a").tokens == 1
