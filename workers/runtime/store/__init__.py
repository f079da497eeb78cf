"""Every SQL statement of the kernel, one verb per module, batch by default. No other room of the kernel holds SQL.

Identifiers come from the models' tables; every value is a parameter. The caller passes in a plain psycopg connection
and owns the transaction.
"""
