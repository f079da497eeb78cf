"""Calls to addresses that users name, signatures of webhooks, and mail. Knows no domain.

A call never reaches an address inside the network: see :mod:`workers.outbound.addresses`.
"""
