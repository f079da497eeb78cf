"""Inject faults into a whole system under load, then check its recorded history: ``python -m tests.chaos``."""
