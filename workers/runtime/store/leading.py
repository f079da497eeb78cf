"""The fence of what the leading dispatcher does: its statements change nothing once another one leads.

A leader's statement locks its own row of ``runtime.dispatcher`` before it changes a job, and so does not run beside
the statement that makes the next leader: one of both waits. The row is locked only where there is a job to change, so
that a leader without work writes nothing.
"""


def leads() -> str:
    """Return a condition that holds while ``%(term)s`` leads, and keeps it leading until the statement has ended."""
    return "EXISTS (SELECT FROM runtime.dispatcher WHERE id = 1 AND term = %(term)s FOR SHARE)"


def if_leading(ids: str, *, fenced: bool) -> str:
    """Return the ids that the statement ``ids`` selects as an array; of a fenced one, NULL unless the term leads."""
    if not fenced:
        return f"ARRAY({ids})"
    # CASE asks in this order: who finds no job asks for no lock.
    return f"""(SELECT CASE WHEN found.ids <> '{{}}' THEN CASE WHEN {leads()} THEN found.ids END END
                  FROM (SELECT ARRAY({ids}) AS ids OFFSET 0) AS found)::uuid[]"""
