"""Work by time: when schedules are due, and the regular maintenance."""
