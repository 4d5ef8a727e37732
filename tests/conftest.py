"""Settings of the whole suite: property tests are never timed, machines may be slow."""

from hypothesis import settings

settings.register_profile("falconer", deadline=None)
settings.load_profile("falconer")
