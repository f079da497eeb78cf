"""The kernel's promise as a model: explored exhaustively, then held against the real statements step by step."""
