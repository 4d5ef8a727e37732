"""The images in a compose stack, as shipped. `make images-test` runs this; `make test` does not.

The tests share one stack and run in order. Each leaves the stack with three workers.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shared.process.sockets import free_port
from tests.deploy.compose import Compose
from tests.integration.test_readme import ADDRESS, examples, parsed, run, with_jq

WAIT_S = 180.0
JOBS = 60
MAX_ROWS = 32  # default of a worker


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    stack = Compose("falconer-images-test", free_port())
    stack.down(volumes=True)
    try:
        stack.up(workers=3)
        wait_for_workers(stack, 3)
        yield stack
    finally:
        stack.down(volumes=True)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.5)


def get(stack: Compose, path: str) -> dict[str, Any]:
    """Return the response, or an empty dict while the service does not answer."""
    try:
        answer = httpx.get(stack.url + path, timeout=70)
    except httpx.TransportError:
        return {}
    body: dict[str, Any] = answer.json()
    return body if answer.is_success else {}


def wait_for_workers(stack: Compose, number: int) -> None:
    eventually(lambda: len(get(stack, "/workers").get("workers", [])) == number)


def submit(stack: Compose, tokens: int, count: int = JOBS) -> list[str]:
    """Submit a burst of jobs of `tokens` each and return their ids."""
    body = {
        "prompt": "Once upon a time",
        "generate_kwargs": {"min_new_tokens": tokens, "max_new_tokens": tokens, "seed": 7},
    }
    with httpx.Client(base_url=stack.url, timeout=30) as client:
        return [
            client.post("/jobs", json=body).raise_for_status().json()["id"] for _ in range(count)
        ]


def results(stack: Compose, job_ids: list[str]) -> list[dict[str, Any]]:
    """Return the final records of the jobs."""
    deadline = time.monotonic() + WAIT_S
    ended = []
    for job_id in job_ids:
        while (job := get(stack, f"/jobs/{job_id}?wait=30")).get("status") != "succeeded":
            assert job.get("status") in (None, "queued", "running"), job
            assert time.monotonic() < deadline, job
        ended.append(job)
    return ended


def test_the_first_request_of_the_readme_succeeds(stack: Compose) -> None:
    example = next(examples("README.md"))
    output = run(with_jq(example.command.replace(ADDRESS, stack.url)))
    assert parsed(output) == parsed(example.output)


@pytest.mark.parametrize("service", ["api", "worker"])
def test_a_container_runs_without_a_name_and_with_a_read_only_root(
    stack: Compose, service: str
) -> None:
    container = stack.containers(service)[0]
    assert stack.python(container, "import os; print(os.getuid())").strip() == "10001"
    code = "import os; print(os.access('/', os.W_OK), os.access('/opt/falconer', os.W_OK))"
    assert stack.python(container, code).split() == ["False", "False"]
    code = "print(*[line for line in open('/proc/mounts') if line.split()[1] == '/'])"
    assert stack.python(container, code).split()[3].startswith("ro")


@pytest.mark.parametrize(
    ("service", "port"), [("api", "FALCONER_PORT"), ("worker", "FALCONER_METRICS_PORT")]
)
def test_a_ready_container_is_healthy(stack: Compose, service: str, port: str) -> None:
    probe = f"['python', '/opt/falconer/probe.py', '{port}']"
    code = f"import subprocess; print(subprocess.call({probe}))"
    assert stack.python(stack.containers(service)[0], code).strip() == "0"


def test_the_api_image_has_no_torch(stack: Compose) -> None:
    code = "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'transformers')])"
    assert stack.python(stack.containers("api")[0], code).strip() == "[None, None]"


def test_three_workers_share_a_burst(stack: Compose) -> None:
    """More jobs than two workers have rows, and too long for these to become free in time."""
    job_ids = submit(stack, tokens=500, count=2 * MAX_ROWS + JOBS)
    shares = Counter(job["worker"] for job in results(stack, job_ids))
    assert len(shares) == 3, shares


def test_another_worker_runs_the_jobs_of_a_killed_worker(stack: Compose) -> None:
    victim = stack.containers("worker")[0]
    job_ids = freeze_at_work(stack, victim)
    stack.kill(victim)
    ended = results(stack, job_ids)
    assert any(job["attempts"] > 1 for job in ended), "nothing ran on the killed worker"
    stack.up(workers=3)
    wait_for_workers(stack, 3)


def freeze_at_work(stack: Compose, worker: str) -> list[str]:
    """Freeze the worker's process while it runs jobs of a burst; return the ids of the burst.

    A fast machine may have ended the burst before, and a slow one may not have started it. Then the
    worker gets another burst.
    """
    host = stack.hostname(worker)
    for _ in range(20):
        job_ids = submit(stack, tokens=500)
        stack.signal(worker, "STOP")
        if any(is_run_on(host, get(stack, f"/jobs/{job_id}")) for job_id in job_ids):
            return job_ids
        stack.signal(worker, "CONT")
        results(stack, job_ids)
    raise AssertionError("the worker ran no job of twenty bursts")


def is_run_on(host: str, job: dict[str, Any]) -> bool:
    is_begun = job.get("status") == "running" and job["attempts"] > 0
    return is_begun and job["worker"].startswith(host)


def test_queued_jobs_survive_down_and_up(stack: Compose) -> None:
    stack.down()  # podman-compose does not remove containers when it scales down
    stack.up(workers=0)
    eventually(lambda: "status" in get(stack, "/readyz"))
    job_ids = submit(stack, tokens=20)
    stack.down()
    stack.up(workers=3)
    assert len(results(stack, job_ids)) == JOBS


def test_a_stop_reaches_the_processes(stack: Compose) -> None:
    wait_for_workers(stack, 3)
    for service in ("worker", "api"):
        assert stack.stop(stack.containers(service)[0]) == 0
