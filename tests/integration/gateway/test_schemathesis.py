"""Schemathesis against a running gateway: every operation, all checks, valid and invalid requests, linked requests.

A few examples run in every test run. By hand, many: ``make fuzz``.
"""

import os
from collections.abc import Mapping
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from tests.support.gateway import EVERYTHING, OPERATOR

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2"))
# Rules that a schema cannot express: 412 a stale version, 413 a large body, 415 no table, 422 fields that belong
# together, 428 a version, 502 and 503 a provider that is away.
MORE_STATUSES = ["400", "412", "413", "415", "422", "428"]
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 10,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


CHECKS: dict[str, Any] = {
    "positive_data_acceptance": {
        "expected-statuses": ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx", *MORE_STATUSES]
    },
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "502", "503"]},
}


def described(gateway: Any, checks: Mapping[str, Any]) -> Any:
    """Return the description of a running gateway, with a key that may do everything."""
    headers = {"Authorization": f"Bearer {EVERYTHING}"}
    config = SchemathesisConfig.from_dict({"headers": headers, "checks": dict(checks)})
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json", config=config)
    # Streams do not end; the routes of the tests are not ours to describe.
    return schema.exclude(path_regex="^/test/|/events$")


@pytest.fixture(scope="module")
def api(gateway):
    return described(gateway, CHECKS)


@schemathesis.serializer("application/pdf")
def write_pdf(_context: Any, value: Any) -> bytes:
    """Send what Schemathesis made up for a PDF."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def test_every_operation_keeps_its_description(api):
    """No error of the server, no undescribed answer, no accepted nonsense, no answer without a key."""
    failed = []
    for result in api.get_all_operations():
        operation = result.ok()
        for mode in MODES:
            try:
                send_examples(operation, mode)
            except Unsatisfiable:  # every value of its parameters is valid
                continue
            except (FailureGroup, AssertionError, ExceptionGroup) as error:
                failed.append(f"{operation.label} ({mode.value}): {error}")
    assert not failed, "\n\n".join(failed)


def send_examples(operation: Any, mode: GenerationMode) -> None:
    @SETTINGS
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        case.call_and_validate()

    send()


def test_linked_requests_keep_the_description(gateway):
    """What one answer names is asked for by the next request.

    Requests without a key are the other test's. Here Schemathesis takes the key of the configuration for one that it
    made up itself.
    """
    machine = described(gateway, CHECKS | {"ignored_auth": {"enabled": False}}).as_state_machine()
    # One example a run: the state of the server remains, so that a second one would not be generated alike.
    settings = hypothesis.settings(SETTINGS, max_examples=1, stateful_step_count=20)
    for _ in range(1 if settings.derandomize else EXAMPLES):
        machine.run(settings=settings)


def test_another_key_gets_answers_of_the_description_too(gateway, api):
    """Refusals for want of a scope are described, for every operation."""
    with gateway.client(OPERATOR) as client:
        for result in api.get_all_operations():
            operation = result.ok()
            assert "403" in operation.definition.raw["responses"] or "security" not in operation.definition.raw
        assert client.get("/v1/settings").status_code == 403
