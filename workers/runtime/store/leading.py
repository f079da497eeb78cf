"""The fence of the leading dispatcher: its statements change nothing after another dispatcher has taken the lead.

A leader's statement locks its row of ``runtime.dispatcher`` before it changes a job. So it cannot run at the same time
as the statement that makes the next leader: one of them waits for the other. The row is locked only if there is a job
to change, so that a leader without work writes nothing.
"""


def leads() -> str:
    """Return a condition: ``%(term)s`` leads. If it holds, no other term can lead before the transaction ends."""
    return "EXISTS (SELECT FROM runtime.dispatcher WHERE id = 1 AND term = %(term)s FOR SHARE)"


def if_leading(ids: str, *, fenced: bool) -> str:
    """Return the ids that the statement ``ids`` selects, as an array; if ``fenced``, NULL unless the term leads."""
    if not fenced:
        return f"ARRAY({ids})"
    # CASE evaluates in this order: a statement that finds no job takes no lock.
    return f"""(SELECT CASE WHEN found.ids <> '{{}}' THEN CASE WHEN {leads()} THEN found.ids END END
                  FROM (SELECT ARRAY({ids}) AS ids OFFSET 0) AS found)::uuid[]"""
