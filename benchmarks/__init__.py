"""Benchmarks, run on demand (`make bench`). Compare ratios within one run, not single absolute figures."""
