"""A proving ground: job tables of no domain, whose handlers do what their rows say. For tests and benchmarks."""
