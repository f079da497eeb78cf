"""Equal texts of one request for embeddings are sent, and paid for, once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.llm.kept.identical_texts import embed_once
from workers.runtime.handler.errors import BrokenVectors, UnfitVectors
from workers.runtime.handler.ports import Embeddings


class Embedder:
    """Gives every text its length and remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def embed(self, texts):
        self.sent += texts
        return Embeddings([[float(len(text))] for text in texts], "m", tokens=len(texts))


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30))
async def test_every_text_gets_its_vector_and_is_sent_once(texts):
    """In the order of the texts."""
    embedder = Embedder()

    found = await embed_once(texts, embedder.embed)

    assert [vector[0] for vector in found.vectors] == [len(text) for text in texts]
    assert sorted(embedder.sent) == sorted(set(texts))


@pytest.mark.parametrize("kind", [UnfitVectors, BrokenVectors])
async def test_what_is_wrong_with_a_text_is_wrong_with_all_its_equals(kind):
    """The reasons are by the place in what was asked, as without equal texts."""

    async def embed(texts):
        assert list(texts) == ["a", "b"]
        raise kind(Embeddings([[1.0], [0.0]], "m", tokens=2), {1: "no direction"})

    with pytest.raises(kind) as caught:
        await embed_once(["a", "b", "a", "b"], embed)

    assert caught.value.reasons == {1: "no direction", 3: "no direction"}
    assert [vector[0] for vector in caught.value.embeddings.vectors] == [1.0, 0.0, 1.0, 0.0]
