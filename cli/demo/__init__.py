"""The demonstration: real profiles scored from start to end on this machine, then shown."""
