"""Proof that calls keep to a provider's quota: real processes against a real quota server (``llmock``).

``make quota`` runs the long forms and prints a table. The short forms are ``tests/e2e/test_quotas.py``.
"""
