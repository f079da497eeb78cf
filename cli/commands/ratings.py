"""``gristmill ratings``: rate records as a person, and compare the ratings of people and models."""

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_count, format_time
from workers.analytics import agreement
from workers.analytics.agreement import Agreement, Average, Comparison
from workers.analytics.ratings import RatingView, list_ratings, rate
from workers.operations.projects import find
from workers.operations.record_review import as_type
from workers.runtime.database import Transaction

app = typer.Typer(help="Rate records, list ratings, compare the ratings of people and models.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id of the project.")]


@app.command()
def add(
    record: Annotated[UUID, typer.Argument(metavar="RECORD", help="Id of the record.")],
    *,
    realism: Annotated[int, typer.Option(help="1 nobody would write this … 7 exactly what a person writes.")],
    quality: Annotated[int, typer.Option(help="1 useless … 7 exemplary.")],
    user: Annotated[str, typer.Option(help="Who rates. A second rating of this user replaces the first.")],
    as_json: Json = False,
) -> None:
    """Rate one record, or change the rating that this user gave it."""
    rating = in_session(lambda session: rate(session, record, user, realism=realism, quality=quality, actor=actor()))
    if as_json:
        print_json({"id": rating, "record_id": record, "user": user, "realism": realism, "quality": quality})
    else:
        print(f"{record} is rated {realism} for realism and {quality} for quality by {user}")


@app.command("list")
def list_(
    project: ProjectName,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of ratings.")] = 50,
    as_json: Json = False,
) -> None:
    """List a project's ratings by people and models, newest first."""

    async def newest(session: Transaction) -> list[RatingView]:
        return await list_ratings(session, (await find(session, project)).id, limit=limit)

    found = in_session(newest)
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("RECORD", "TYPE", ">REALISM", ">QUALITY", "BY", "WHEN", "CONTENT"),
            ((r.record_id, r.type, r.realism, r.quality, _by(r), format_time(r.updated_at), r.excerpt) for r in found),
            keep={"RECORD", "WHEN"},
        )
        if len(found) == limit:
            remark(f"only the newest {limit}; more: --limit N")
    else:
        remark("no ratings yet; `gristmill ratings add` and `gristmill analytics start` add some")


def _by(rating: RatingView) -> str:
    if rating.model is None:
        return rating.user
    return f"{rating.model} (rules)" if rating.rule_based else f"{rating.model} (model)"


@app.command()
def compare(
    project: ProjectName,
    *,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the ratings of each model with those of people: mean difference, agreement, weighted kappa."""

    async def load_pairs(session: Transaction) -> agreement.Pairs:
        return await agreement.pairs_of(session, (await find(session, project)).id, type_=as_type(type_))

    found = agreement.compare(in_session(load_pairs))
    if as_json:
        print_json(found)
        return
    print(f"{format_count(found.rated_by_people, 'record')} rated by people")
    if not found.models:
        remark("no model has rated a record yet; `gristmill analytics start PROJECT` rates them")
        return
    print_table(_COLUMNS, _rows(found), keep={"MODEL"})
    for model in found.models:
        for scale, one in (("realism", model.realism), ("quality", model.quality)):
            if one.kappa_undefined:
                remark(f"{model.model}, {scale}: no kappa: {one.kappa_undefined}")
    if any(model.rule_based for model in found.models):
        remark("ratings by rules are not an AI judgement: they are listed, but not in the averages")


_COLUMNS = ("MODEL", "SCALE", ">BOTH", ">DIFFERENCE", ">EXACT", ">WITHIN 1", ">KAPPA")


def _rows(found: Comparison) -> Iterator[tuple[object, ...]]:
    for model in found.models:
        name = f"{model.model} (rules)" if model.rule_based else model.model
        yield name, "realism", model.realism.n, *_figures(model.realism)
        yield name, "quality", model.quality.n, *_figures(model.quality)
    if found.realism.models > 1:
        yield f"average of {found.realism.models} models", "realism", "", *_figures(found.realism)
        yield f"average of {found.quality.models} models", "quality", "", *_figures(found.quality)


def _figures(one: Agreement | Average) -> tuple[str, ...]:
    difference = "–" if one.mean_difference is None else f"{one.mean_difference:+.2f}"
    shares = ("–" if share is None else f"{share:.0%}" for share in (one.exact, one.within_one))
    return (difference, *shares, "–" if one.kappa is None else f"{one.kappa:.2f}")
