"""What calls cost: the rows of ``llm.calls``, the totals that are maintained beside them, what dead processes left."""
