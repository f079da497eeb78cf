"""What people do with jobs, stages and workers: one set of use-cases for every door. Knows no command line."""
