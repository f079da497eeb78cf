"""What a benchmark says of its samples: ratios, verdicts and tables that follow from the figures alone."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.figures import Results, figure, read
from benchmarks.sizes import QUICK, WHOLE
from benchmarks.targets import TARGETS, Target, verdict

FACTS = {
    "at": "2026-01-02T03:04:05+00:00",
    "cpu": "a processor",
    "cores": 2,
    "load_at_start": [0.5, 0.4, 0.3],
    "python": "3.11.9 (a compiler)",
    "optimised_python": True,
    "postgres": "18.6",
    "fsync": "on",
    "valkey": "9.1.2",
}


@pytest.fixture
def results():
    """A run of three rounds in which the machine slowed down."""
    return Results(
        FACTS,
        {"repeat": 3},
        [
            figure("drain", "drain", "jobs/s", {"gristmill": [900, 600, 300], "naive Celery": [30, 20, 10]}),
            figure("latency_20_p50", "wait", "ms", {"gristmill": 9.0}),
        ],
    )


def test_a_ratio_compares_what_shared_a_round(results):
    """A machine that slows down over the run changes both contenders of a round, and not their ratio."""
    drain = results.get("drain")

    assert drain.median() == 600
    assert drain.ratio("naive Celery") == 30
    assert drain.ratio("nobody") is None


def test_targets_are_judged_by_the_runs_own_figures(results):
    """Met, not met, or not measured; never by a figure of another run."""
    said = {says: (shown, met) for says, shown, met in report.judged(results)}

    assert said["drain ≥ 30 × naive"] == ("30.00 ×", "met")
    assert said["commit to handler at 20/s, p50 ≤ 8 ms"] == ("9.0", "not met")
    assert said["worker RSS ≤ 120 MB idle"] == ("", "not measured")


def test_every_target_has_one_bound_and_a_text_of_its_own():
    """The one table of targets cannot contradict itself."""
    assert all((target.at_least is None) != (target.at_most is None) for target in TARGETS)
    assert len({target.says for target in TARGETS}) == len(TARGETS)


def test_a_bound_holds_at_its_edge(results):
    """At least and at most include the figure itself."""
    assert verdict(Target(figure="latency_20_p50", says="", at_most=9), results) == ("9.0", "met")
    assert verdict(Target(figure="latency_20_p50", says="", at_least=9), results) == ("9.0", "met")


def test_a_kept_run_reads_back_as_it_was(results, tmp_path, capsys):
    """What `report` prints of a file is what the run itself would have said."""
    results.failures["calls"] = "RuntimeError: no such thing"
    results.write(tmp_path / "run.json")

    assert read(tmp_path / "run.json") == results
    assert command.main(["report", str(tmp_path / "run.json")]) == 0
    assert capsys.readouterr().out == report.markdown(results) + "\n"
    json.loads((tmp_path / "run.json").read_text())


def test_the_report_shows_each_comparison_with_its_ratio(results):
    """One row a comparison, and a figure that stands alone in a row of its own."""
    lines = report.markdown(results).splitlines()

    assert "| drain, jobs/s | 600 | naive Celery | 20.0 | 30.00 × |" in lines
    assert "| wait, ms | 9 |  |  |  |" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "nothing.json"], "no run is kept in 'nothing.json'"),
        (["plot", "nothing.json"], "no run is kept in 'nothing.json'"),
    ],
)
def test_a_run_that_is_not_there_is_one_line(arguments, said, capsys):
    """No traceback."""
    assert command.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_an_unknown_part_names_the_known_ones(capsys):
    """The line tells what could have been meant."""
    with pytest.raises(SystemExit):
        command.main(["--only", "drains"])

    assert "must be of enqueue, drain, latency" in capsys.readouterr().err


def test_a_scaled_run_keeps_its_shape():
    """Fewer of everything, but every part still has something to measure."""
    small = QUICK.scaled(0.001)

    assert len(small.depths) == len(QUICK.depths)
    assert min(small.depths) >= 20
    assert small.drain_jobs < QUICK.drain_jobs < WHOLE.drain_jobs
