"""Who is asked: providers, routes and what is bound to them, as rows that all processes follow while they run.

``routing.py`` is the snapshot and its rules, ``tables.py`` reads and resumes, ``following.py`` keeps a process up to
date, ``clients.py`` has one client per provider and process.
"""
