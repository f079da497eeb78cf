pytest_plugins = ["gristmill_testing.plugin"]
