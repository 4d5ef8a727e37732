"""What `falconer jobs` prints of the texts of jobs."""

import subprocess
import sys

from tests.falconer.job_service import PATIENCE_S, JobService, job_service


def followed(service: JobService) -> str:
    """Return what `falconer jobs follow` prints into a pipe."""
    words = (sys.executable, "-m", "falconer", "jobs", "follow", "1", "--url", service.url)
    return subprocess.run(
        words, check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout


def test_a_text_with_its_spaces_cleaned_up_is_printed_once() -> None:
    with job_service() as service:
        service.finish(" Hello, you.", " Hello", " ,", " you .")
        assert followed(service) == "Hello , you .\n"


def test_the_rest_of_a_text_follows_its_deltas() -> None:
    with job_service() as service:
        service.finish(" Hello, you.", " Hello", ",")
        assert followed(service) == "Hello, you.\n"


def test_a_text_without_deltas_is_printed_from_the_result() -> None:
    with job_service() as service:
        service.finish(" Hello, you.")
        assert followed(service) == "Hello, you.\n"
