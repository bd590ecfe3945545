"""Settings for all tests."""

from hypothesis import settings

# The same examples in every run, and no time limit: how fast a machine is says nothing of the code.
settings.register_profile("tvmopt", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("tvmopt")
