"""Other Python queues doing the same work on the same machine, each in an environment and a database of its own.

A driver (``benchmarks/peers/NAME.py``) runs in the peer's own environment as ``python -m benchmarks.peers.NAME ROLE``
with the roles ``setup``, ``enqueue COUNT`` and ``worker``. What a job does is the same for all: ``jobs.py``.
"""
