"""The kernel's migration helpers of released generations never change, because other packages' revisions use them."""

from hashlib import sha256

import pytest

from tests.support.paths import ROOT

KERNEL = ROOT / "migrations" / "kernel"
FROZEN = {
    "v1/__init__.py": "aa15d7a9c78dbffb6db36fbcea14168daed3991302c9f3aee953c1543f0ae61b",
    "v1/guards.py": "132c3e18bad7d3bdf3d57693968a92107fca75f00a669357e3cb6fbddda39f63",
    "v1/lifecycle.py": "0e389f48a5b0bb95b3316b2f1a184c4f38829a81fdbfeeb237a3f04cb78a85d4",
    "v2/__init__.py": "4b0b6a125136e5053e027c135c85054e634d16ab5f7be6ddbd5c839ef03b034b",
    "v2/columns.py": "2a365a6c09a393188eda75a8f6ef429fdc7612c27c6423f477342985b9f329ed",
    "v2/guards.py": "86658b380864f05f163d3a7de45c9933884a334e539866ca3ac135ee46dee65e",
    "v2/lifecycle.py": "53e784578ea16d647a68a971e6b3f6156ad910a163610d8ca82f8c5b2319bb43",
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_file_is_unchanged_since_its_release(name):
    """Changes go into a new generation."""
    assert sha256((KERNEL / name).read_bytes()).hexdigest() == FROZEN[name]


def test_every_file_of_a_frozen_generation_is_listed():
    """No file is added to a frozen generation."""
    assert {path.relative_to(KERNEL).as_posix() for path in KERNEL.glob("v[12]/*.py")} == FROZEN.keys()
