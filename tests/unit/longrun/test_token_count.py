"""The tokens of a job are counted over all of its runs, and noted with every commit."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from pydantic import BaseModel

from gristmill_testing.model import ScriptedModel
from workers.longrun.long_run import LongRun
from workers.longrun.token_count import TokenCount
from workers.runtime.handler.context import Context, Run
from workers.runtime.handler.ports import Embeddings, Purpose, ReuseLedger
from workers.runtime.handler.resources import Resources

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


class Verdict(BaseModel):
    good: bool


class Counted(ScriptedModel):
    """A scripted model with embeddings that cost three tokens a text."""

    async def embed(self, texts: Any, *, model: str, purpose: Purpose = "document") -> Embeddings:
        return Embeddings([[1.0]] * len(texts), model, tokens=3 * len(texts))


def context(checkpoint: Any = None) -> Context:
    return Context(
        run=cast("Run", SimpleNamespace()),
        resources=Resources(llm=Counted({"good": True})),
        session=cast("Any", None),
        progress=cast("Any", None),
        checkpoint=checkpoint,
        clock=lambda: NOW,
    )


async def test_questions_answers_and_texts_are_counted_over_all_runs() -> None:
    """The next run goes on from what the last one noted."""
    count = TokenCount.of({"tokens": {"prompt": 1, "completion": 2, "embedding": 3}, "turn": 4})
    ctx = count.counting(context())

    await ctx.llm.parse([], into=Verdict, model="m")
    await ctx.llm.embed(["a", "b"], model="e")

    assert count.note() == {"prompt": 101, "completion": 22, "embedding": 9}
    assert TokenCount.of({"tokens": count.note()}) == count
    assert TokenCount.of(None) == TokenCount()


async def test_counts_are_committed_with_what_they_paid_for() -> None:
    """Beside the other notes of the run."""
    kept: list[dict[str, Any]] = []

    async def checkpoint(values: Any, _write: object = None) -> None:
        kept.append(dict(values))

    count = TokenCount()
    ctx = count.counting(context(checkpoint))
    run = LongRun(ctx, notes={"turn": 4}, deadline=None, tokens=count)

    await ctx.llm.embed(["a"], model="e")
    await run.keep({"progress": 5})

    assert kept == [{"progress": 5, "resume_at": {"turn": 4, "tokens": {"prompt": 0, "completion": 0, "embedding": 3}}}]


async def test_a_counted_model_passes_on_which_vectors_were_reused():
    """The ledger has them also where a job counts its tokens."""
    reused: list[tuple[int, str]] = []

    class Recorded(Counted):
        async def record_reused(self, tokens: int, *, model: str) -> None:
            reused.append((tokens, model))

    model = Recorded({"good": True})
    counting = TokenCount().counting(replace(context(), resources=Resources(llm=model)))

    await cast("ReuseLedger", counting.llm).record_reused(40, model="m")
    await cast("ReuseLedger", TokenCount().counting(context()).llm).record_reused(40, model="m")  # has no ledger

    assert isinstance(counting.llm, ReuseLedger)
    assert reused == [(40, "m")]
