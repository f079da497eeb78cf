"""The files of other projects that the gateway serves are those that were released, with their licences."""

import hashlib

from gateway.routes.docs import ASSETS

# swagger-ui-dist 5.35.0 of the npm registry, Apache-2.0; integrity of its archive:
# sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ==
RELEASED = {
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
}


def test_the_files_are_unchanged() -> None:
    """A changed byte in a bundle of a megabyte would be seen by nobody."""
    found = {name: hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() for name in RELEASED}

    assert found == RELEASED


def test_nothing_else_is_served() -> None:
    """Own files: the page and its start."""
    assert {path.name for path in ASSETS.iterdir()} == {*RELEASED, "index.html", "start.js"}
