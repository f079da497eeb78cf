"""Vectors of records: the handler that has them made, and the search among them."""
