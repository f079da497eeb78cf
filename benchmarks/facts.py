"""The facts about the machine and its load that explain a figure. They never include a host name or an address."""

import os
import platform
import shutil
import subprocess
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from benchmarks.system import System

PACKAGES = ("celery", "kombu", "psycopg", "pydantic", "redis", "sqlalchemy")


def environment(system: System) -> dict[str, Any]:
    """Return the facts, with the load of the last minutes, because other programs change every figure."""
    with Redis.from_url(system.redis_url) as redis:
        server = redis.info("server")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "python": f"{platform.python_version()} ({platform.python_compiler()})",
        "optimised_python": "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")),
        "postgres": system.value("SHOW server_version"),
        "fsync": system.value("SHOW fsync"),
        "settings": dict(
            system.postgres.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE source IN ('command line',"
                " 'configuration file') AND name NOT LIKE '%%directory%%' AND name NOT LIKE '%%file%%'"
                " AND name NOT LIKE 'listen%%' AND name NOT LIKE 'unix%%' AND name <> 'port' ORDER BY name"
            ).fetchall()
        ),
        "code": _code(),
        "valkey": server.get("valkey_version") or server["redis_version"],
        "packages": {name: version(name) for name in PACKAGES},
    }


def _code() -> str:
    """Return the measured commit, marked if files differ from it; empty outside of a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    asked = [git, "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
