"""Who may call when: limits, windows, cooldowns and budgets, asked and settled for many calls by one statement.

The rules are functions of the database (``llm.admit``, ``llm.settle_calls``), so that all processes keep them together
and by one clock. Here calls are gathered, what became of them is never lost, and those that wait keep their turn.
"""
