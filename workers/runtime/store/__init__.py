"""Every statement the kernel runs, one verb per module, batch by default. The only room of the kernel that holds SQL.

Identifiers come from the models' own tables; every value is a parameter. Statements run on a plain psycopg connection
handed in by the caller, who owns the transaction.
"""
