"""What holds for all tests."""

from hypothesis import settings

# `make quick`; the full number of examples runs in `make test`. Times of single examples are noise on shared machines.
settings.register_profile("quick", max_examples=20, deadline=None)
settings.register_profile("full", deadline=None)
settings.load_profile("full")
