"""The world outside: calls to addresses that users name, signatures of webhooks, mail. Knows no domain.

A call never reaches an address inside the network: see :mod:`workers.outbound.addresses`.
"""
