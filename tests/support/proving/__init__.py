"""Job tables for tests and benchmarks that belong to no domain. Their handlers do what their rows say."""
