"""The ratios, verdicts and tables of a benchmark, computed from given figures."""

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


def test_a_ratio_compares_samples_of_the_same_round(results):
    """If the machine slows down during the run, both contenders of a round change, but not their ratio."""
    drain = results.get("drain")

    assert drain.median() == 600
    assert drain.ratio("naive Celery") == 30
    assert drain.ratio("nobody") is None


def test_targets_are_judged_by_the_runs_own_figures(results):
    """A target is met, not met or not measured. Figures of other runs do not count."""
    said = {says: (shown, met) for says, shown, met in report.judged(results)}

    assert said["drain ≥ 30 × naive"] == ("30.00 ×", "met")
    assert said["commit to handler at 20/s, p50 ≤ 8 ms"] == ("9.0", "not met")
    assert said["worker RSS ≤ 120 MB idle"] == ("", "not measured")


def test_every_target_has_one_bound_and_its_own_text():
    """The table of targets has no contradictions."""
    assert all((target.at_least is None) != (target.at_most is None) for target in TARGETS)
    assert len({target.says for target in TARGETS}) == len(TARGETS)


def test_a_bound_holds_at_its_edge(results):
    """The bounds ``at_least`` and ``at_most`` are inclusive."""
    assert verdict(Target(figure="latency_20_p50", says="", at_most=9), results) == ("9.0", "met")
    assert verdict(Target(figure="latency_20_p50", says="", at_least=9), results) == ("9.0", "met")


def test_a_saved_run_is_read_back_unchanged(results, tmp_path, capsys):
    """`report` prints the same for a file as for the run itself."""
    results.failures["calls"] = "RuntimeError: no such thing"
    results.write(tmp_path / "run.json")

    assert read(tmp_path / "run.json") == results
    assert command.main(["report", str(tmp_path / "run.json")]) == 0
    assert capsys.readouterr().out == report.markdown(results) + "\n"
    json.loads((tmp_path / "run.json").read_text())


def test_the_report_shows_each_comparison_with_its_ratio(results):
    """Each comparison has one row, and so has a figure without one."""
    lines = report.markdown(results).splitlines()

    assert "| drain, jobs/s | 600 | naive Celery | 20.0 | 30.00 × |" in lines
    assert "| wait, ms | 9 |  |  |  |" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "nothing.json"], "no run is saved in 'nothing.json'"),
        (["plot", "nothing.json"], "no run is saved in 'nothing.json'"),
    ],
)
def test_a_missing_run_is_reported_in_one_line(arguments, said, capsys):
    """There is no traceback."""
    assert command.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_an_unknown_part_names_the_known_ones(capsys):
    """The message lists the valid names."""
    with pytest.raises(SystemExit):
        command.main(["--only", "drains"])

    assert "must be among enqueue, drain, latency" in capsys.readouterr().err


def test_a_scaled_run_keeps_its_shape():
    """All counts are smaller, but every part still has something to measure."""
    small = QUICK.scaled(0.001)

    assert len(small.depths) == len(QUICK.depths)
    assert min(small.depths) >= 20
    assert small.drain_jobs < QUICK.drain_jobs < WHOLE.drain_jobs
