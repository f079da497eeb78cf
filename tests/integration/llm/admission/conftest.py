"""Admission on real Postgres; its fixtures serve the ledger, too."""

from tests.support.admission_fixtures import admission, clock, rows, start

__all__ = ["admission", "clock", "rows", "start"]
