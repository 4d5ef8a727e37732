"""Which Falconer this is."""

from importlib.metadata import PackageNotFoundError, version


def falconer_version() -> str:
    """The installed package's version; a checkout that is not installed has none."""
    try:
        return version("falconer")
    except PackageNotFoundError:
        return "0+source"
