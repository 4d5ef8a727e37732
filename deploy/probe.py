"""Check the container's health: exit with 0 if `/readyz` answers 200, else with 1.

The argument is the name of the variable with the port. The images have no curl.
"""

import os
import sys
from urllib.error import URLError
from urllib.request import urlopen

TIMEOUT_S = 4.0


def is_ready(port: str) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(os.environ[sys.argv[1]]) else 1)
