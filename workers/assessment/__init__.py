"""Assess servers and texts by type, and keep every criterion's score beside the verdict."""
