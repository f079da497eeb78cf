"""Callbacks of the test gateway: each ended job with a ``callback_url`` becomes a signed message that is kept."""

import base64
import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from gristmill_client.testing.answers import Answer, Asked, json_answer
from gristmill_client.testing.jobs import StoredJob
from gristmill_client.webhooks import PREFIX, signature


@dataclass(frozen=True, slots=True)
class Callback:
    """One message that the real gateway would send: post ``body`` with ``headers`` to your handler of ``url``."""

    url: str
    headers: dict[str, str]
    body: bytes
    job_id: UUID


class Callbacks:
    """The secrets of tenants, and the messages so far."""

    def __init__(self) -> None:
        self.sent: list[Callback] = []
        self._secrets: dict[UUID | None, list[str]] = {}

    def replace_secret(self, tenant: UUID | None) -> str:
        """Make a new secret; the one before signs too."""
        made = PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        self._secrets[tenant] = [made, *self._secrets.get(tenant, [])[:1]]
        return made

    def secret_of(self, tenant: UUID | None) -> str:
        """Return the newest secret of a tenant, made if there is none."""
        return self._secrets[tenant][0] if tenant in self._secrets else self.replace_secret(tenant)

    def tell(self, job: StoredJob) -> None:
        """Keep the message about a job that has ended, if somebody wants it."""
        if job.request.callback_url is None or job.outcome is None:
            return
        path = f"/v1/jobs/{job.id}"
        data = {
            "job_id": str(job.id),
            "stage": job.stage,
            "status": job.status,
            "version": job.version,
            "links": {"job": path, "result": f"{path}/result"},
        }
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = json.dumps({"type": f"job.{job.outcome.value}", "timestamp": at, "data": data}).encode()
        self.secret_of(job.tenant)
        message_id, stamp = f"msg_{uuid4().hex}", str(int(time.time()))
        signed = " ".join(f"v1,{signature(one, message_id, stamp, body)}" for one in self._secrets[job.tenant])
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": stamp,
            "webhook-signature": signed,
        }
        self.sent.append(Callback(job.request.callback_url, headers, body, job.id))


def replace_secret(asked: Asked, callbacks: Callbacks) -> Answer:
    return json_answer({"secret": callbacks.replace_secret(asked.key.tenant), "previous_until": None})
