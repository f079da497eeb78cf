"""The use-cases of projects, records, windows and settings. The jobs on them are in other rooms."""
