"""How processes are called in logs, in Flower and in ``runtime.transitions``."""

import os
import socket


def process_name(role: str) -> str:
    """Return ``role@host`` with the pid: unique among living processes, readable by people."""
    return f"{role}-{os.getpid()}@{socket.gethostname()}"
