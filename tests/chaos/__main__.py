"""``make chaos``: inject every fault of the matrix into a whole system and check its history.

Exit code 1: a promise was broken.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos import nemesis
from tests.chaos.faults import matrix

SEEDS = 2**32


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="check the promises of a whole system under faults"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="how long to inject; every fault at least once")
    parser.add_argument("--seed", type=int, help="chooses the order and details of the faults, and the load")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="this fault only; may be repeated")
    parser.add_argument("--brief", action="store_true", help="the three-minute run of the test suite")
    parser.add_argument("--list", action="store_true", help="list the faults and what is promised")
    parser.add_argument("--logs", type=Path, help="keep every role's log in this folder")
    options = parser.parse_args()
    faults = matrix()
    if options.list:
        for fault in faults.values():
            _say(f"{fault.name}\n    {fault.happens}\n    {fault.guarantee} (healed within {fault.heals_within:g} s)")
        return 0
    if unknown := set(options.only) - faults.keys():
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}; --list names them all")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(SEEDS)
    folder = options.logs or Path(tempfile.mkdtemp(prefix="gristmill-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"seed {seed}; logs in {folder}")
    outcome = nemesis.run(folder, seed=seed, minutes=options.minutes, only=options.only, brief=options.brief)
    _say(f"\n{outcome.render()}")
    if outcome.ok and not options.logs:
        shutil.rmtree(folder)
    return 0 if outcome.ok else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
