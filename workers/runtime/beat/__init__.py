"""Time: when schedules are due, and what maintenance does again and again."""
