"""A real embeddings server that is no chat server."""

import pytest

from workers.llm.provider import build

pytestmark = pytest.mark.real_models

TEXTS = [
    "query: how do I reset my password",
    "passage: To reset a password, open the settings.",
    "passage: Cats sleep.",
]


async def test_texts_get_vectors_and_their_tokens_are_counted(embedder: str) -> None:
    """Of one length, in the order of the texts; what means the same is nearer."""
    made = build(
        api_key=None,
        base_url=embedder,
        model=None,
        embedding_model="multilingual-e5-small",
        connect_timeout=5.0,
        timeout=60.0,
        max_connections=2,
    )
    try:
        found = await made.embed(TEXTS, model=await made.embedding_model())
    finally:
        await made.aclose()

    question, answer, other = found.vectors
    assert {len(vector) for vector in found.vectors} == {384}
    assert sum(map(float.__mul__, question, answer)) > sum(map(float.__mul__, question, other))
    assert found.tokens
