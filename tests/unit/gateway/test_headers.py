"""Versions as ETag and If-Match."""

import pytest

from gateway.headers import etag, read_version
from gateway.problems import HttpProblem


@pytest.mark.parametrize(("value", "version"), [('"7"', 7), (' "0" ', 0), ("*", None), (etag(123), 123)])
def test_a_version_is_read(value: str, version: int | None) -> None:
    """A star stands for any version."""
    assert read_version(value) == version


@pytest.mark.parametrize("value", ["7", 'W/"7"', '"7", "8"', '"07"', '"-1"', '""', "", '"' + "9" * 30 + '"', '"٣"'])
def test_anything_else_is_refused(value: str) -> None:
    """The problem names the header, the rule and the value."""
    with pytest.raises(HttpProblem, match="If-Match must be one version in quotes") as refused:
        read_version(value)

    assert refused.value.status_code == 422
