"""``gristmill bench``: measure the deployed system with scoring jobs that are deleted afterwards."""

from typing import Annotated

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_database
from workers.llm.offline import MODEL as OFFLINE
from workers.scoring.load_generator import Load, measure

ANNOUNCEMENT = (
    "bench enqueues up to {jobs:,} scoring jobs for made-up profiles, answered by the offline evaluator; the jobs, the "
    "profiles and their answers are deleted afterwards, their transitions stay in the history"
)


def bench(
    jobs: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Number of jobs to run for the drain rate.")
    ] = 5_000,
    rate: Annotated[
        float, typer.Option(min=1, max=1_000, help="Jobs per second while the latency is measured.")
    ] = 20.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long to measure the latency.")] = 10.0,
    *,
    as_json: Json = False,
) -> int:
    """Measure the configured system: enqueue rate, drain rate, latency. Other work on it changes the figures."""
    load = Load(jobs=jobs, rate=rate, seconds=seconds, free_model=OFFLINE)
    remark(ANNOUNCEMENT.format(jobs=jobs + int(rate * seconds)))
    measured = in_database(lambda database: measure(database, load, tell=remark, actor=actor()))
    if as_json:
        print_json(measured)
    else:
        print_table(("FIGURE", ">VALUE", "UNIT"), measured.rows())
    return 0
