"""Reading answers to requests for embeddings, and the embedder that needs no model."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.llm import feature_hash, vectors
from workers.llm.offline import OfflineEvaluator
from workers.llm.provider import build
from workers.runtime.handler.errors import Permanent, Retryable

# The largest components of one text's feature hash.
GOLDEN = [(79, 0.294), (104, -0.3319), (140, 0.28), (160, 0.28), (242, 0.28), (354, 0.294)]


def answer(*embeddings, indexes=None, **more):
    places = range(len(embeddings)) if indexes is None else indexes
    data = [{"index": place, "embedding": one} for place, one in zip(places, embeddings, strict=True)]
    return json.dumps({"data": data, "model": "other", "usage": {"prompt_tokens": 7}} | more)


def provider_of(url, **more):
    return build(api_key="k", base_url=url, model=None, connect_timeout=1.0, timeout=1.0, max_connections=2, **more)


def test_vectors_come_in_the_order_of_the_texts():
    """By their index, however the server sent them; under the name of the model that was asked."""
    read = vectors.read(answer([1.0, 2.0], [3.0, 4.0], indexes=[1, 0]), texts=2, model="m")

    assert [list(one) for one in read.vectors] == [[3.0, 4.0], [1.0, 2.0]]
    assert (read.model, read.tokens) == ("m", 7)


def test_items_without_indexes_are_taken_in_their_order():
    """Some servers leave them out."""
    body = json.dumps({"data": [{"embedding": [1]}, {"embedding": [2]}]})

    assert [list(one) for one in vectors.read(body, texts=2, model="m").vectors] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<html>", "no JSON object"),
        ("{}", "an answer without vectors"),
        (answer(), "an answer without vectors"),
        (answer([1.0]), "1 vectors for 2 texts"),
        (answer([1.0], [2.0], [3.0]), "3 vectors for 2 texts"),
        (answer([1.0], [2.0], indexes=[0, 0]), "indexes have gaps"),
        (answer([1.0], [2.0], indexes=[1, 2]), "indexes have gaps"),
        (answer([1.0], [2.0, 3.0]), "different lengths: [1, 2]"),
        (answer([1.0], [float("nan")]), "not finite in single precision"),
        (answer([1.0], [1e39]), "not finite in single precision"),
        (answer([1.0], ["2"]), "no list of numbers"),
        (answer([1.0], []), "no list of numbers"),
        (answer([1.0], "AACAPw=="), "no list of numbers"),
        (json.dumps({"error": {"code": 503, "message": "busy"}}), "HTTP 503"),
    ],
)
def test_broken_answer_is_worth_another_try(body, said):
    """Nothing of it is kept."""
    with pytest.raises(Retryable) as refusal:
        vectors.read(body, texts=2, model="m")

    assert said in str(refusal.value)


def test_number_too_small_for_single_precision_is_zero():
    """Postgres would refuse it."""
    assert list(vectors.read(answer([1e-60, 1.0]), texts=1, model="m").vectors[0]) == [0.0, 1.0]


def test_vector_without_direction_is_refused():
    """It is like no other, not even like itself."""
    with pytest.raises(Permanent, match="zeros only"):
        vectors.read(answer([0.0, 0.0], [1.0, 0.0]), texts=2, model="m")


async def test_openai_has_an_embedding_model_of_its_own_and_other_servers_must_be_told():
    """A guess would name a model that the server does not have."""
    openai, other = provider_of(None), provider_of("http://u:pw@localhost:1/v1?k=s")
    told = provider_of("http://localhost:1/v1", embedding_model="nomic")

    assert await openai.embedding_model() == "text-embedding-3-small"
    assert await told.embedding_model() == "nomic"
    with pytest.raises(Permanent) as refusal:
        await other.embedding_model()
    assert str(refusal.value) == (
        "no embedding model is set for http://localhost:1/v1: set GRISTMILL_LLM__EMBEDDING_MODEL, "
        "or embedding_model in the system settings"
    )
    for provider in (openai, other, told):
        await provider.aclose()


# ── the feature hash ─────────────────────────────────────────────────────────────────────────────────────────────────


def cosine(one, other):
    return sum(a * b for a, b in zip(feature_hash.vector(one), feature_hash.vector(other), strict=True))


def test_feature_hash_is_the_same_on_every_machine_and_in_every_release():
    """Vectors are kept for years under this name; whoever changes a weight must change the name."""
    made = feature_hash.vector("Write a haiku about the sea, the SEA!")

    assert len(made) == feature_hash.DIMENSIONS == 384
    assert [(place, round(value, 4)) for place, value in enumerate(made) if abs(value) > 0.2] == GOLDEN


def test_texts_with_common_words_are_alike():
    """Enough to find near duplicates, and what is about the same things in the same words."""
    task = "Write a poem about the sea"

    assert cosine(task, "write a POEM about the sea!") == pytest.approx(1.0, abs=1e-6)
    assert cosine(task, "Compose a poem about the sea and the wind") > 0.5
    assert abs(cosine(task, "Explain quantum tunnelling to my nephew")) < 0.2


@given(st.text().filter(str.strip))
def test_every_text_has_a_direction(text):
    """Emoji, control characters and single letters too; length 1, whatever the text."""
    made = feature_hash.vector(text)

    assert math.fsum(value * value for value in made) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("texts", [[""], ["a", " \n"], []])
async def test_empty_text_is_refused_by_the_offline_embedder(texts):
    """As servers refuse it."""
    with pytest.raises(Permanent, match="empty text"):
        await OfflineEvaluator().embed(texts, model=feature_hash.MODEL)


async def test_offline_embedder_gives_no_vectors_under_another_name():
    """Vectors of two models are never mixed."""
    offline = OfflineEvaluator()

    assert (await offline.embed(["a"], model=await offline.embedding_model())).model == "offline-hash-v1"
    with pytest.raises(Permanent, match="'text-embedding-3-small' is not here"):
        await offline.embed(["a"], model="text-embedding-3-small")
