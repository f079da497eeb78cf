"""The worker process: claims, slots, runs, heartbeat, settling. Knows no Celery and no domain."""
