"""First generation: the lifecycles of release 0.1.0. Frozen: a test compares the files' hashes."""
