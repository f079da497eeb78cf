"""How items are cut into requests for embeddings."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.longrun.cutting import cut
from workers.runtime.handler.ports import EmbeddingLimits
from workers.runtime.handler.tokens import tokens_of

TEXTS = st.lists(st.text(max_size=60), max_size=40)
LIMITS = st.builds(EmbeddingLimits, texts=st.integers(1, 10), tokens=st.integers(1, 80))


@given(TEXTS, LIMITS)
def test_each_text_is_in_one_request_within_the_limits(texts: list[str], limits: EmbeddingLimits) -> None:
    """The order is kept. A text that alone exceeds the limit of tokens has its own request."""
    requests = list(cut(texts, str, limits=limits))

    assert [text for request in requests for text in request] == texts
    for request in requests:
        assert 1 <= len(request) <= limits.texts
        assert len(request) == 1 or sum(map(tokens_of, request)) <= limits.tokens


@given(TEXTS, LIMITS)
def test_no_request_is_cut_while_the_next_text_fits(texts: list[str], limits: EmbeddingLimits) -> None:
    """A request is filled up to the limits, because each one costs a round trip."""
    requests = list(cut(texts, str, limits=limits))

    for request, following in pairwise(requests):
        with_next = [*request, following[0]]
        assert len(with_next) > limits.texts or sum(map(tokens_of, with_next)) > limits.tokens


def test_tokens_are_estimated_by_bytes_and_not_by_letters() -> None:
    """Scripts of many bytes per letter have many tokens per letter."""
    assert tokens_of("море" * 30) == 80
    assert tokens_of("a") == 1
    assert tokens_of("") == 0
