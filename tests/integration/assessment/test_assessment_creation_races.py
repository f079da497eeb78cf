"""Two services that create one assessment at once: exactly one assessment exists afterwards."""

import uuid
from functools import partial

from psycopg import errors

from tests.support.assessment_services import ALICE, BOB, RUNS_PER_RACE, Speak, create, one, run_together


def test_of_two_creators_with_two_requests_one_wins_and_the_other_is_refused(speak: Speak) -> None:
    """The first one wins. A third creator with another owner does not interfere."""
    first, second, other = speak(ALICE), speak(ALICE), speak(BOB)
    for run in range(RUNS_PER_RACE):
        name = f"race-{run}"
        results = run_together(
            partial(create, first, name, by="first"),
            partial(create, second, name, by="second"),
            partial(create, other, name, by="other"),
        )

        assert isinstance(results[2], uuid.UUID)
        losers = [one for one in results[:2] if isinstance(one, errors.UniqueViolation)]
        assert len(losers) == 1, results
        assert str(losers[0].diag.message_primary).endswith("which differs in by")
        assert one(first, "SELECT count(*) FROM assessment_states WHERE assessment_id = %s", name) == 1


def test_of_two_creators_with_one_request_both_get_the_same_assessment(speak: Speak) -> None:
    """A creation that is asked for again is the same creation."""
    first, second = speak(ALICE), speak(ALICE)
    for run in range(RUNS_PER_RACE):
        name = f"race-{run}"
        results = run_together(partial(create, first, name), partial(create, second, name))

        assert isinstance(results[0], uuid.UUID)
        assert results[0] == results[1]
