"""Vectors of records: the handler that has them made, and similarity search."""
