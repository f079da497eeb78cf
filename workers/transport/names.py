"""The names of processes in logs, in Flower and in ``runtime.transitions``."""

import os
import socket


def process_name(role: str) -> str:
    """Return ``role-pid@host``, which is unique among running processes."""
    return f"{role}-{os.getpid()}@{socket.gethostname()}"
