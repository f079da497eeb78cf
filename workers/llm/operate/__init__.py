"""What people do with providers, prices, routes, limits, budgets and the ledger: one set of use-cases for every door.

Session and actor in, a typed view out; a :class:`~workers.runtime.refusals.Refusal` names field, rule, value, remedy.
Secrets come in by the caller's hand, are encrypted by the keyring that is handed in, and go out nowhere.
"""
