"""The use-cases of operators for jobs, stages and workers: one set for every door. Knows no command line."""
