"""Measured comparisons, run on demand (`make bench`). Ratios of one run, never one absolute figure."""
