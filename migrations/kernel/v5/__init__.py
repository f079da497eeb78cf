"""Fifth generation: stages that are open to SQL (``runtime.enqueue``)."""

from migrations.kernel.v5.sql_door import close_to_sql, open_to_sql

__all__ = ["close_to_sql", "open_to_sql"]
