"""Every route of the domains and of the operators: a request that succeeds, the scope that it needs, who else may.

Names in braces are those of the world in ``tests/integration/gateway/test_route_table.py``. The order matters: a route
may need what an earlier one has made, and what is deleted comes last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What another user gets for the same request: the answer for what does not exist, a refusal, or the same data.
Others = Literal["missing", "forbidden", "readable"]
PDF = b"%PDF-1.4\n%%EOF\n"
CSV = b"prompt,category\nfirst task,top_10\nsecond task,bottom_10\n"
REQUEST = {"serverName": "search", "assessmentType": "llm_rubric", "options": {"content": "x"}}
WINDOW = {"start": "2030-01-01T00:00:00Z", "end": "2030-02-01T00:00:00Z", "tasks": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One operation with a request that succeeds; ``user`` is whose key sends it, None for an operator's."""

    operation: str
    method: str
    path: str
    scope: str
    status: int = 200
    user: str | None = "alice"
    others: Others | None = None
    json: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: Mapping[str, Any] | None = None
    data: Mapping[str, str] | None = None

    def request(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a client's ``request``, with the names filled in."""
        given: dict[str, Any] = {
            "method": self.method,
            "url": self.path.format_map(names),
            "params": fill(self.params, names),
            "headers": dict(self.headers),
        }
        if self.json is not None:
            given["json"] = fill(self.json, names)
        for name in ("content", "files", "data"):
            if (value := getattr(self, name)) is not None:
                given[name] = value
        return given


def fill(value: Any, names: Mapping[str, Any]) -> Any:
    """Return ``value`` with the names in its texts filled in."""
    match value:
        case str():
            return value.format_map(names)
        case dict():
            return {key: fill(one, names) for key, one in value.items()}
        case list():
            return [fill(one, names) for one in value]
    return value


def _of(operation: str, request: str, scope: str, status: int = 200, **more: Any) -> Case:
    method, path = request.split(" ")
    return Case(operation=operation, method=method, path=path, scope=scope, status=status, **more)


def _operators(operation: str, request: str, scope: str, status: int = 200, **more: Any) -> Case:
    return _of(operation, request, scope, status, user=None, **more)


_PROJECT = "/v1/projects/{project}"
_ANY = {"If-Match": "*"}
TABLE = (
    # scoring
    _of("list_profiles", "GET /v1/profiles", "scoring:read"),
    _of("add_profile", "POST /v1/profiles", "scoring", 201, json={"name": "Grace", "attributes": {"a": [1, None]}}),
    _of("get_profile", "GET /v1/profiles/{profile}", "scoring:read", others="missing"),
    _of("score_profile", "POST /v1/profiles/{profile}/score", "scoring", 201, json={"prompt": "Judge."},
        others="missing"),
    _of("explain_job", "GET /v1/jobs/{job}/why", "jobs:read", others="missing"),
    # operations
    _of("list_projects", "GET /v1/projects", "operations:read"),
    _of("create_project", "POST /v1/projects", "operations", 201, json={"name": "second"}),
    _of("get_project", f"GET {_PROJECT}", "operations:read", others="readable"),
    _of("rename_project", f"PATCH {_PROJECT}", "operations", json={"name": "renamed"}, headers=_ANY,
        others="forbidden"),
    _of("put_guidelines", f"PUT {_PROJECT}/guidelines", "operations", content=PDF,
        headers={"Content-Type": "application/pdf"}, others="forbidden"),
    _of("get_guidelines", f"GET {_PROJECT}/guidelines", "operations:read", others="readable"),
    _of("embed_project", f"POST {_PROJECT}/embed", "operations", 201, others="forbidden"),
    _of("ingest_file", f"POST {_PROJECT}/ingest", "operations", 201, files={"file": ("tasks.csv", CSV)},
        data={"type": "task", "mapping": '{"content": "prompt"}'}, others="forbidden"),
    _of("list_records", f"GET {_PROJECT}/records", "operations:read", others="readable"),
    _of("get_record", f"GET {_PROJECT}/records/{{record}}", "operations:read", others="readable"),
    _of("review_records", f"POST {_PROJECT}/records/review", "operations", json={"record_ids": ["{record}"]},
        others="forbidden"),
    _of("find_similar_records", f"GET {_PROJECT}/similar", "operations:read", params={"record": "{record}"},
        others="readable"),
    _of("rate_record", f"POST {_PROJECT}/ratings", "operations",
        json={"record_id": "{record}", "realism": 5, "quality": 6}, others="readable"),
    _of("list_ratings", f"GET {_PROJECT}/ratings", "operations:read", others="readable"),
    _of("compare_ratings", f"GET {_PROJECT}/ratings/comparison", "operations:read", others="readable"),
    _of("start_analysis", f"POST {_PROJECT}/analytics", "operations", 201, json={"type": "task"}, others="readable"),
    _of("list_analyses", f"GET {_PROJECT}/analytics", "operations:read", others="readable"),
    _of("get_analysis", f"GET {_PROJECT}/analytics/{{analysis}}", "operations:read", others="readable"),
    _of("list_bonus_windows", "GET /v1/bonus-windows", "operations:read"),
    _of("create_bonus_window", "POST /v1/bonus-windows", "operations", 201, user="root", json=WINDOW),
    _of("get_bonus_window", "GET /v1/bonus-windows/{window}", "operations:read", others="readable"),
    _of("change_bonus_window", "PATCH /v1/bonus-windows/{window}", "operations", user="root", json={"tasks": 5},
        headers=_ANY, others="forbidden"),
    _of("list_open_standings", "GET /v1/bonus-windows/standings", "operations:read"),
    _of("list_standings", "GET /v1/bonus-windows/{window}/standings", "operations:read", others="readable"),
    # assessments
    _of("create_assessment", "POST /v1/assessments", "assessments", 201,
        json={"assessment_id": "b", "request": REQUEST}),
    _of("list_assessments", "GET /v1/assessments", "assessments:read"),
    _of("get_assessment", "GET /v1/assessments/{assessment}", "assessments:read", others="missing"),
    _of("change_assessment", "PATCH /v1/assessments/{assessment}", "assessments", headers={"If-Match": '"1"'},
        json={"state": "pending", "reason": "look again"}, others="missing"),
    _of("cancel_assessment", "POST /v1/assessments/{assessment}/cancel", "assessments", json={"reason": "no need"},
        others="missing"),
    _of("list_assessment_changes", "GET /v1/assessments/{assessment}/audit", "assessments:read", others="missing"),
    _of("list_assessment_metrics", "GET /v1/assessments/{assessment}/metrics", "assessments:read"),
    # operators
    _operators("list_stages", "GET /v1/stages", "operate:read"),
    _operators("pause_stage", "POST /v1/stages/scoring.score/pause", "operate", json={"reason": "costs"}),
    _operators("resume_stage", "POST /v1/stages/scoring.score/resume", "operate"),
    _operators("list_workers", "GET /v1/workers", "operate:read"),
    _operators("list_errors", "GET /v1/errors", "operate:read"),
    _operators("list_dead_messages", "GET /v1/dead", "operate:read"),
    _operators("get_dead_message", "GET /v1/dead/{dead}", "operate:read"),
    _operators("replay_dead_messages", "POST /v1/dead/replay", "operate", json={"message_ids": ["{dead}"]}),
    _operators("add_schedule", "POST /v1/schedules", "operate", 201,
               json={"name": "nightly", "cron": "0 3 * * *", "action": "forget_workers"}),
    _operators("list_schedules", "GET /v1/schedules", "operate:read"),
    _operators("get_schedule", "GET /v1/schedules/nightly", "operate:read"),
    _operators("change_schedule", "PATCH /v1/schedules/nightly", "operate", json={"cron": "0 4 * * *"},
        headers=_ANY),
    _operators("pause_schedule", "POST /v1/schedules/nightly/pause", "operate"),
    _operators("resume_schedule", "POST /v1/schedules/nightly/resume", "operate"),
    _operators("run_schedule", "POST /v1/schedules/nightly/run", "operate"),
    _operators("delete_schedule", "DELETE /v1/schedules/nightly", "operate", 204),
    _operators("list_settings", "GET /v1/settings", "admin"),
    _operators("put_settings", "PUT /v1/settings", "admin", json={"values": {"llm_model": "gpt-4o-mini"}}),
    _operators("delete_setting", "DELETE /v1/settings/llm_model", "admin"),
    _operators("list_keys", "GET /v1/keys", "admin"),
    _operators("create_key", "POST /v1/keys", "admin", 201, json={"name": "new", "scopes": ["operate:read"]}),
    _operators("revoke_key", "POST /v1/keys/{key}/revoke", "admin", json={"reason": "lost"}),
    # language models
    _operators("add_provider", "POST /v1/llm/providers", "operate", 201,
               json={"name": "here", "kind": "compatible", "base_url": "http://[::1]:9/v1", "api_key": "a-secret-17"}),
    _operators("list_providers", "GET /v1/llm/providers", "operate:read"),
    _operators("change_provider", "PATCH /v1/llm/providers/here", "operate", json={"api_key": "another-secret-18"},
        headers=_ANY),
    _operators("pause_provider", "POST /v1/llm/providers/here/pause", "operate", json={"reason": "costs"}),
    _operators("resume_provider", "POST /v1/llm/providers/here/resume", "operate"),
    _operators("resume_providers", "POST /v1/llm/resume", "operate"),
    _operators("add_route", "POST /v1/llm/routes", "operate", 201,
               json={"name": "cheap", "steps": [{"provider": "here", "model": "small"}]}),
    _operators("list_routes", "GET /v1/llm/routes", "operate:read"),
    _operators("get_route", "GET /v1/llm/routes/cheap", "operate:read"),
    _operators("put_steps", "PUT /v1/llm/routes/cheap/steps", "operate",
               json={"steps": [{"provider": "here", "model": "larger", "max_tokens": 100}]}),
    _operators("bind_route", "POST /v1/llm/routes/cheap/bindings", "operate", json={"stage": "scoring.score"}),
    _operators("unbind_route", "DELETE /v1/llm/bindings", "operate", params={"stage": "scoring.score"}),
    _operators("put_limits", "PUT /v1/llm/limits", "operate",
               json={"limits": [{"provider": "here", "measure": "requests", "at_most": 60, "window_seconds": 60}]}),
    _operators("list_limits", "GET /v1/llm/limits", "operate:read"),
    _operators("delete_limit", "DELETE /v1/llm/limits/{limit}", "operate", 204),
    _operators("put_budget", "PUT /v1/llm/budgets/all", "operate",
               json={"scope": "all", "window": "day", "usd": "5.00"}),
    _operators("list_budgets", "GET /v1/llm/budgets", "operate:read"),
    _operators("delete_budget", "DELETE /v1/llm/budgets/all", "operate", 204),
    _operators("put_price", "PUT /v1/llm/prices", "operate",
               json={"provider": "here", "model": "small", "input": "0.15"}),
    _operators("list_prices", "GET /v1/llm/prices", "operate:read"),
    _operators("delete_price", "DELETE /v1/llm/prices", "operate", 204, params={"provider": "here", "model": "small"}),
    _operators("sum_up_calls", "GET /v1/llm/spend", "operate:read", params={"by": ["model", "day"]}),
    _operators("list_calls", "GET /v1/llm/calls", "operate:read", params={"state": "settled"}),
    _operators("get_call", "GET /v1/llm/calls/{call}", "operate:read"),
    # last, what is deleted
    _operators("delete_route", "DELETE /v1/llm/routes/cheap", "operate", 204),
    _operators("delete_provider", "DELETE /v1/llm/providers/here", "operate", 204),
    _of("delete_bonus_window", "DELETE /v1/bonus-windows/{window}", "operations", 204, user="root", others="forbidden"),
    _of("delete_project", f"DELETE {_PROJECT}", "operations", 204, others="forbidden"),
)  # fmt: skip
