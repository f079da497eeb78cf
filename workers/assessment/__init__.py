"""Assess servers and texts by type, and store the score of every criterion with the verdict."""
