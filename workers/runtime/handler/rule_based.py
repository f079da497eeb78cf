"""Marks for answers of the offline evaluator, so that nobody mistakes a rule for a model's judgement. Pure."""

MODEL_PREFIX = "offline-rubric-"
# Stored with each answer of a rule, and shown with it.
NOTE = "rule-based, not an AI judgement"
