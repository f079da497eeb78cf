"""The embedded Valkey: loopback only, password, append-only file, and no eviction, because a queue is one key."""

import json
import signal
import subprocess
from contextlib import closing, suppress

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from local.embedded.home import make_own_folder
from local.embedded.server import HOST, Server


class Valkey(Server):
    """Valkey with its data in ``home/valkey``."""

    name = "valkey"
    stop_signals = (signal.SIGTERM,)

    @property
    def url(self) -> str:
        return f"redis://:{self.site.password}@{HOST}:{self.port}/0"

    def prepare(self, lock: int) -> None:
        del lock  # nothing is started here
        make_own_folder(self.site.home, self.name, self.site.account)

    def launch(self, lock: int) -> subprocess.Popen[bytes]:
        # The configuration goes through stdin, because every user of the machine can read a command line.
        process = self.run([self.program, "-"], lock, stdin=subprocess.PIPE)
        if process.stdin:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(self._config().encode())
        return process

    def answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        with closing(client):
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _config(self) -> str:
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "requirepass": self.site.password,
            "dir": json.dumps(str(self.site.home / self.name), ensure_ascii=False),  # Valkey quotes like JSON
            "appendonly": "yes",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())
