"""What revisions call, one module per generation. A released generation is frozen: what changes, changes in a new one.

The first generation is ``migrations/lifecycle.py`` and ``migrations/guards.py``.
"""
