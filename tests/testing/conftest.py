"""The example is a project of its own: test_plugin.py runs it as one."""

collect_ignore = ["example"]
