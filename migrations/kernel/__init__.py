"""What revisions call, one package per generation. A released generation is frozen: a change needs a new generation."""
