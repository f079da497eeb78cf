"""If a handler file cannot be loaded, discovery names the file and the line."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from workers.runtime.handler.discovery import BrokenHandlers
from workers.runtime.handler.registry import Registry, discover

HEAD = """
from pydantic import BaseModel
from tests.support.proving.models import PlainJob
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.registry import Registry, stage

INTO = Registry()
WHO = Limit("who", 2)

class Payload(BaseModel):
    act: str = "complete"

"""
LINE = HEAD.count("\n") + 1
Broken = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package like ``workers``, with one room."""
    name = f"shop_{uuid4().hex[:8]}"
    (tmp_path / name / "review").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "review" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def refused(package: str, tmp_path: Path) -> Broken:
    """Write one handler file and return the errors of discovery."""

    def write(code: str, name: str = "read_review.py") -> str:
        (tmp_path / package / "review" / name).write_text(code, encoding="utf-8")
        with pytest.raises(BrokenHandlers) as refusal:
            discover(package)
        assert "\n" not in str(refusal.value)
        return str(refusal.value).replace(package, "shop")

    return write


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        ("import json\nimport there_is_none", 2, "ModuleNotFoundError: No module named 'there_is_none'"),
        ("from json import lods", 1, "ImportError: cannot import name 'lods' from 'json'"),
        ("x = 1\nasync def f(job, ctx)\n    pass", 2, "SyntaxError: expected ':'"),
        ("def f():\n  x = 1\n   y = 2", 3, "IndentationError: unexpected indent"),
        ("x = 1\n\nx.nothing", 3, "AttributeError: 'int' object has no attribute 'nothing'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(
    refused: Broken, code: str, line: int, reason: str
) -> None:
    """The author finds the line for every kind of error."""
    assert refused(code).startswith(f"handlers cannot be loaded: shop/review/read_review.py, line {line}: {reason}")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            '@stage("proving.plain", of=PlainJob, payload=Payload, into=INTO)\ndef perform(job, ctx): ...',
            "must be an async function of a job and its context, got perform",
        ),
        (
            '@stage("proving.plain", of=PlainJob, payload=Payload, into=INTO)\nasync def perform(job): ...',
            "must be an async function of a job and its context, got perform",
        ),
        (
            '@stage("proving.typo", of=PlainJob, payload=Payload, into=INTO)\nasync def perform(job, ctx): ...',
            "stage 'proving.typo' is no step of this lifecycle; its stages: proving.plain",
        ),
        (
            '@stage("proving.plain", of=PlainJob, payload=Payload, limit=WHO, into=INTO)\nasync def f(job, ctx): ...',
            "stage 'proving.plain' names 'who', no column of PlainJob",
        ),
        (
            '@stage("proving.plain", of=PlainJob, payload=Payload)\nasync def perform(job, ctx): ...',
            "stage 'proving.plain' is registered twice; the first handler is",
        ),
    ],
)
def test_a_handler_that_no_worker_could_run_is_named_with_its_line(refused: Broken, code: str, reason: str) -> None:
    """Every role refuses it at its start, not at the first job."""
    message = refused(HEAD + code)

    assert f"shop/review/read_review.py, line {LINE}: " in message
    assert reason in message


def test_a_folder_of_handlers_that_is_no_package_is_said(package: str, tmp_path: Path) -> None:
    """Python skips it silently; without this check its stages would just be unknown."""
    (tmp_path / package / "reviews").mkdir()
    (tmp_path / package / "reviews" / "read_review.py").touch()

    with pytest.raises(BrokenHandlers, match=f"{package}/reviews: has no __init__.py"):
        discover(package)


def test_all_broken_files_are_told_each_once(refused: Broken) -> None:
    """A file that other files import is named once, at its own line."""
    assert "b.py" not in refused("import there_is_none", "a.py")
    message = refused("from . import a", "b.py")
    both = refused("x = 1\nx.nothing", "c.py")

    assert message.count("a.py, line 1") == 1
    assert "a.py, line 1" in both
    assert "c.py, line 2" in both


def test_a_stage_of_a_broken_file_does_not_stay(package: str, tmp_path: Path, monkeypatch) -> None:
    """A second discovery finds the same error again, and no "registered twice" of a stage from the first."""
    stages = Registry()
    monkeypatch.setattr("workers.runtime.handler.registry.registry", stages)
    code = '@stage("proving.plain", of=PlainJob, payload=Payload, into=registry.registry)\nasync def f(job, ctx): ...\n'
    file = tmp_path / package / "review" / "read_review.py"
    file.write_text(f"{HEAD}from workers.runtime.handler import registry\n{code}missing\n", encoding="utf-8")

    for _ in range(2):
        with pytest.raises(BrokenHandlers, match="NameError: name 'missing' is not defined"):
            discover(package)
        assert not stages
