"""Kill, cut, stall, forge and fill while a load runs, then judge the recorded history: ``python -m tests.chaos``."""
