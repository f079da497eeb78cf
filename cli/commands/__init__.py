"""The commands, one module per group: their options and what they print. Heavy imports stay inside the functions."""
