"""What the author of a domain tests it with: a real database, a worker in the test's process, a model with a script.

Enable the fixtures in ``conftest.py`` by ``pytest_plugins = ["gristmill_testing.plugin"]``. Gristmill's own tests use
the same parts. Nothing that runs in production imports this package.
"""
