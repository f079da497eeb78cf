"""What the demonstration scores: installed packages, or a person's own file."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path

import pytest

from cli.demo.packages import describe_package, list_packages
from cli.demo.report import Round, entry_lines, summary_lines
from cli.profile_file import read_profiles
from workers.runtime.refusals import Refusal
from workers.scoring.profiles import NewProfile
from workers.scoring.rounds import Scored

REASON = "coverage 0.33 (2 of 6 key terms); not mentioned: links"
OFFLINE_REASON = f"rule-based, not an AI judgement: {REASON.replace(';', '; structure 0.40;')}"


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Refusal) as refused:
        read_profiles(path)
    line = str(refused.value)
    assert "\n" not in line
    return line.replace(str(path), "FILE")


def test_installed_packages_make_profiles_with_evidence() -> None:
    """Every machine that runs Gristmill has packages. Their metadata become the attributes."""
    profiles = list_packages(limit=20)

    assert len(profiles) == 20
    assert profiles == list_packages(limit=20)
    assert "gristmill" not in {profile.name for profile in profiles}
    about = describe_package(distribution("pydantic"))
    assert {"summary", "description", "release", "license", "links", "classifiers", "requires"} <= about.keys()
    json.dumps([profile.attributes for profile in profiles], allow_nan=False)


def test_json_lines_take_attributes_in_an_object_or_beside_the_name(tmp_path) -> None:
    """Both forms are accepted; blank lines are skipped."""
    path = written(tmp_path, "p.jsonl", '{"name": "A", "attributes": {"x": 1}}\n\n{"name": " B ", "y": [2]}\n')

    assert read_profiles(path) == [NewProfile("A", {"x": 1}), NewProfile("B", {"y": [2]})]


def test_csv_rows_leave_empty_cells_out(tmp_path) -> None:
    """A byte order mark, quoted line breaks and short rows are accepted."""
    path = written(tmp_path, "p.CSV", '\ufeffname,summary,team\nA,"two\nlines",\nB\n\n')

    assert read_profiles(path) == [NewProfile("A", {"summary": "two\nlines"}), NewProfile("B", {})]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("p.jsonl", '{"name": "A"}\n{"name": ""}\n', "FILE, line 2: field 'name' must be a text that is not empty"),
        ("p.jsonl", '{"title": "A"}\n', "FILE, line 1: field 'name' must be a text that is not empty"),
        ("p.jsonl", '{"name": 7}', "FILE, line 1: field 'name' must be a text that is not empty, got 7"),
        ("p.jsonl", '\n{"name": }', "FILE, line 2: is not JSON: Expecting value at column 10"),
        ("p.jsonl", "[1]", "FILE, line 1: must be a JSON object, got [1]"),
        ("p.jsonl", '{"name": "A", "attributes": 1}', "FILE, line 1: field 'attributes' must be an object, got 1"),
        (
            "p.jsonl",
            '{"name": "A", "x": "\\u0000"}',
            "FILE, line 1: field 'x' must not contain NUL, broken characters or NaN",
        ),
        ("p.jsonl", '{"name": "A", "x": NaN}', "FILE, line 1: is not JSON: NaN is not a JSON number"),
        ("p.jsonl", '{"name": "A", "x": 1, "x": 2}', "FILE, line 1: has the key 'x' twice in one object"),
        ("p.jsonl", "", "FILE has no profile"),
        ("p.csv", "title\nA\n", "FILE, line 1: the header must have the column 'name', got title"),
        ("p.csv", "name,x,x\nA,1,2\n", "FILE, line 1: column 'x' is given twice"),
        ("p.csv", 'name,x\nA,1\n"two\nlines",2\nB,1,2\n', "FILE, line 5: has 3 fields, the header has 2"),
        ("p.csv", "name,x\n,1\n", "FILE, line 2: field 'name' must be a text that is not empty"),
        ("p.csv", b"name\nA\nB\xff\n", "FILE, line 3: must be UTF-8, got byte 0xff"),
        ("p.txt", "A", "FILE must be a .jsonl or .csv file"),
    ],
)
def test_a_bad_line_is_named_with_its_field_and_rule(tmp_path, name: str, content: str | bytes, line: str) -> None:
    """The line helps to correct the file. Nothing of the file is used until all of it is correct."""
    assert refusal(written(tmp_path, name, content)) == line


def test_a_missing_file_is_named(tmp_path) -> None:
    """One line has the reason of the operating system."""
    assert refusal(tmp_path / "none.csv") == "FILE cannot be read: No such file or directory"


def scored(name: str, *points: float, cached: bool = False) -> Scored:
    criteria = [
        {"name": f"c{n}", "score": value, "weight": 1, "evidence": [], "reasoning": OFFLINE_REASON}
        for n, value in enumerate(points)
    ]
    score = {"overall": sum(points) / len(points), "criteria": criteria, "flags": [], "model": "offline-rubric-v1"}
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    return Scored(name, "completed", score, cached, 0, None, moment, moment, moment + timedelta(seconds=2))


def test_the_offline_evaluator_is_named_as_rule_based() -> None:
    """Nobody must take a score by rules for the judgement of a model."""
    lines = "\n".join(summary_lines(Round([scored("A", 50)]), Round([scored("A", 50, cached=True)])))

    assert "offline-rubric-v1: rule-based, not an AI judgement" in lines
    assert "1st round: 1 job in 2.00 s" in lines
    assert "0 evaluated, 1 answered from identical earlier jobs" in lines


def test_the_reason_is_the_strength_of_a_good_profile_and_the_weakness_of_a_poor_one() -> None:
    """The reason explains the place in the list, without measurements that do not help a person."""
    good, poor = entry_lines(scored("A", 90, 60)), entry_lines(scored("B", 40, 10))

    assert good == (" 75.0  A                         c0 90 · c1 60", "       " + f"c0: {REASON}")
    assert poor[1].strip() == f"c1: {REASON}"
