"""How answers of the offline evaluator are marked, so that nobody takes a rule for a model's judgement. Pure."""

MODEL_PREFIX = "offline-rubric-"
# Stands beside each answer of a rule, and wherever it is shown.
NOTE = "rule-based, not an AI judgement"
