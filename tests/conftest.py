"""What holds for all tests."""

from hypothesis import settings

# Machines are shared and noisy: how long an example takes is no property of the code. Speed is
# measured in benchmarks/.
settings.register_profile("emoguard", deadline=None)
settings.load_profile("emoguard")
