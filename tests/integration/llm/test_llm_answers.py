"""What servers really send: bombs, odd encodings, drafts before answers, refusals in prose."""

import base64
import gzip
import json
import tracemalloc
import zlib

import pytest

from tests.support.fakes.openai_server import FakeOpenAI, completion
from workers.judging.answers import answer_to
from workers.llm.provider import build
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Refused, Retryable, Unavailable
from workers.scoring.question import build_question
from workers.scoring.score import ScoreAnswer

QUESTION = build_question("Judge.\n\nCriteria:\n- use: solves a problem", name="a", attributes={})
INTO = answer_to((one.name for one in QUESTION.criteria), form=ScoreAnswer)
MIB = 1 << 20
# 400 MB of blanks, as gzip makes them from one block after another: 390 kB.
BOMB = gzip.compress(b" " * (400 * 10**6), 1)


@pytest.fixture(scope="module")
def server():
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def fake(server):
    server.reset()
    return server


@pytest.fixture
async def provider(fake):
    made = build(api_key="sk-test", base_url=fake.url, model=None, connect_timeout=2.0, timeout=20.0, max_connections=4)
    yield made
    await made.aclose()


def raw(body: bytes, **more):
    """Return the behaviour that sends ``body``."""
    return {"kind": "raw", "body": base64.b64encode(body).decode(), **more}


def scored(points: object) -> str:
    """Return a valid answer to the question, with these points."""
    one = {"name": "use", "score": points, "evidence": [], "reasoning": "r"}
    return json.dumps({"overall": points, "criteria": [one], "flags": []})


def said(text: str, *, encoding: str = "utf-8") -> bytes:
    """Return a completion that says ``text``."""
    whole = completion({"model": "m", "messages": []}, "answer")
    whole["choices"][0]["message"]["content"] = text
    return json.dumps(whole, ensure_ascii=False).encode(encoding)


async def parse(provider):
    return await provider.parse(QUESTION.messages, into=INTO, model="m")


@pytest.mark.parametrize("status", [200, 503])
async def test_answer_that_unfolds_to_400_mb_is_given_up_within_a_few(provider, fake, status):
    """390 kB of gzip must not take a worker's memory, as an answer or as an error."""
    fake.script(default=raw(BOMB, status=status, headers={"content-encoding": "gzip", "retry-after": "9"}))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidAnswers if status == 200 else Unavailable, match="4 MiB" if status == 200 else "503"):
            await parse(provider)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 24 * MIB
    assert fake.calls == 1


async def test_plain_answer_that_never_ends_is_given_up(provider, fake):
    """Without compression too; the rest is not read."""
    fake.script(default=raw(b'{"choices": [' + b"[]," * (2 * MIB) + b"[]]}"))

    with pytest.raises(InvalidAnswers, match="larger than 4 MiB"):
        await parse(provider)


async def test_bombs_of_vectors_are_given_up_and_an_error_of_a_list_keeps_its_status(provider, fake):
    """Every call reads within bounds."""
    fake.script(embeddings={"faults": [raw(BOMB, headers={"content-encoding": "gzip"})]})

    with pytest.raises(InvalidAnswers, match="larger than 4 MiB"):
        await provider.embed(["a"], model="m")


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("gzip", lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])),
    ],
)
async def test_compressed_answers_are_read(provider, fake, encoding, compress):
    """In every form that was asked for, members and missing headers included."""
    fake.script(default=raw(compress(said(scored(60))), headers={"content-encoding": encoding}))

    assert (await parse(provider)).value.overall == 60


@pytest.mark.parametrize("encoding", ["br", "gzip", "deflate", "gzip, gzip"])
async def test_answer_that_is_not_compressed_as_it_says_is_an_outage(provider, fake, encoding):
    """Another attempt may get a better one; a traceback or an empty answer is none."""
    fake.script(default=raw(said(scored(60)), headers={"content-encoding": encoding}))

    with pytest.raises(Unavailable, match="UnreadableAnswer"):
        await parse(provider)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
async def test_answer_in_another_unicode_encoding_is_read(provider, fake, encoding):
    """With a byte order mark or without."""
    fake.script(default=raw(said(scored(60), encoding=encoding)))

    assert (await parse(provider)).value.overall == 60


async def test_error_in_utf_16_is_judged_by_its_code(provider, fake):
    """What an error says decides what becomes of the job."""
    body = json.dumps({"error": {"code": "content_filter", "message": "flagged"}}).encode("utf-16")
    fake.script(default=raw(body, status=400))

    with pytest.raises(Refused, match="refused the content"):
        await parse(provider)


async def test_redirect_is_not_followed_and_points_to_the_url(provider, fake):
    """A sign-in page or a moved API is put right by people; a key goes to no other host."""
    fake.script(default=raw(b"", status=302, headers={"location": f"{fake.url}/elsewhere"}))

    with pytest.raises(Unavailable, match="OPENAI_BASE_URL"):
        await parse(provider)

    assert fake.calls == 1


@pytest.mark.parametrize(
    "content",
    [
        "<thinking>I could say {draft}</thinking>\n{final}",
        "<THINK>{draft}</THINK>{final}",
        "<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant<|channel|>final<|message|>{final}",
        "Draft: {draft}\nFinal: {final}",
    ],
)
async def test_final_answer_wins_over_drafts(provider, fake, content):
    """One call, and the score is the one that the model meant."""
    text = content.replace("{draft}", scored(1)).replace("{final}", scored(60))
    fake.script(default={"kind": "says", "content": text})

    assert (await parse(provider)).value.overall == 60
    assert fake.calls == 1


@pytest.mark.parametrize("points", [True, "high", float("nan"), None, [60]])
async def test_score_that_is_no_number_is_asked_for_again(provider, fake, points):
    """Python would count with true."""
    fake.script(queue=[{"kind": "says", "content": scored(points)}], default={"kind": "says", "content": scored(60)})

    assert (await parse(provider)).value.overall == 60
    assert fake.calls == 2


async def test_score_that_is_written_as_text_counts(provider, fake):
    """``"85"`` is a number; small models write it so."""
    fake.script(default={"kind": "says", "content": scored("85")})

    assert (await parse(provider)).value.overall == 85
    assert fake.calls == 1


async def test_refusal_in_prose_is_told_as_one(provider, fake):
    """Not as JSON that is missing: who reads the error must know that the model would not."""
    fake.script(default={"kind": "says", "content": "I'm sorry, but I can't evaluate a person like that."})

    with pytest.raises(Refused, match=r"declined to answer: .*can't evaluate"):
        await parse(provider)

    assert fake.calls == 2


async def test_model_that_declines_once_may_answer_the_second_time(provider, fake):
    """A model's output is random."""
    fake.script(queue=[{"kind": "says", "content": "I cannot do that."}], default={"kind": "answer"})

    assert (await parse(provider)).value.criteria[0].name == "use"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "error", "error": {"code": 429, "message": "upstream"}}, RateLimited),
        ({"finish_reason": "error", "error": {"code": 400, "message": "no"}}, Permanent),
        ({"finish_reason": "SAFETY"}, Refused),
        ({"message": {"role": "assistant", "content": "", "refusal": "No."}}, Refused),
        ({"message": None}, Retryable),
    ],
)
async def test_failure_within_a_choice_is_judged_for_what_it_is(provider, fake, choice, expected):
    """One call; nothing is asked again in vain."""
    fake.script(default={"kind": "choice", "choice": choice})

    with pytest.raises(expected):
        await parse(provider)

    assert fake.calls == 1


async def test_what_postgres_cannot_keep_is_cleaned_out_of_an_answer(provider, fake):
    """NUL and half a surrogate pair, in the evidence and in the body."""
    text = scored(60).replace('"r"', '"a\\u0000b\\ud800c"')
    fake.script(default=raw(said(text)))

    answer = await parse(provider)

    assert answer.value.criteria[0].reasoning == "a\ufffdb\ufffdc"
    assert json.dumps(answer.raw).isascii()
    json.dumps(answer.raw, ensure_ascii=False).encode()
