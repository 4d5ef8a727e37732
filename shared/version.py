"""Read the version of the installed package."""

from importlib.metadata import PackageNotFoundError, version


def falconer_version() -> str:
    """Return the installed package's version; "0+source" for a checkout that is not installed."""
    try:
        return version("falconer")
    except PackageNotFoundError:
        return "0+source"
