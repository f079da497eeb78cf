"""Streams of events (SSE)."""
