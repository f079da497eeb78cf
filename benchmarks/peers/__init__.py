"""Other Python queues that do the same work on the same machine, each with its own environment and database.

A driver (``benchmarks/peers/NAME.py``) runs in the peer's own environment as ``python -m benchmarks.peers.NAME ROLE``
with the roles ``setup``, ``enqueue COUNT`` and ``worker``. The jobs of all peers do the same work (``jobs.py``).
"""
