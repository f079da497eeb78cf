"""Tools to test a domain: a real database, a worker in the test's process, a model with scripted answers.

Enable the fixtures in ``conftest.py`` with ``pytest_plugins = ["gristmill_testing.plugin"]``. Gristmill's own tests
use the same tools. Production code never imports this package.
"""
