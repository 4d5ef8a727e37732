"""Start the command line, as `falconer` and as `python -m falconer`."""

from shared.process.signals import end_at_once_on_signals
from shared.process.standard_streams import secure_standard_streams


def main() -> None:
    """Secure signals and standard streams, then import and run the command line.

    The imports take up to a second. A signal during that time must end the process silently.
    """
    end_at_once_on_signals()
    secure_standard_streams()
    from falconer import cli

    cli.main()


if __name__ == "__main__":
    main()
