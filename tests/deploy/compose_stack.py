"""The images in a compose stack, as shipped: `make images-test`, too slow for `make test`.

The tests share one stack and run in their order; each leaves it with three workers.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.deploy.compose import Compose
from tests.integration.test_readme import ADDRESS, examples, without_chance
from tests.redis_server import free_port

WAIT_S = 180.0
JOBS = 60


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
    """Empty while nobody answers."""
    try:
        answer = httpx.get(stack.url + path, timeout=70)
    except httpx.TransportError:
        return {}
    body: dict[str, Any] = answer.json()
    return body if answer.is_success else {}


def wait_for_workers(stack: Compose, number: int) -> None:
    eventually(lambda: len(get(stack, "/workers").get("workers", [])) == number)


def submit(stack: Compose, tokens: int) -> list[str]:
    """Ids of a burst of jobs of so many tokens each."""
    body = {
        "prompt": "Once upon a time",
        "generate_kwargs": {"min_new_tokens": tokens, "max_new_tokens": tokens, "seed": 7},
    }
    with httpx.Client(base_url=stack.url, timeout=30) as client:
        return [
            client.post("/jobs", json=body).raise_for_status().json()["id"] for _ in range(JOBS)
        ]


def results(stack: Compose, job_ids: list[str]) -> list[dict[str, Any]]:
    """The jobs as they ended."""
    deadline = time.monotonic() + WAIT_S
    ended = []
    for job_id in job_ids:
        while (job := get(stack, f"/jobs/{job_id}?wait=30")).get("status") != "succeeded":
            assert job.get("status") in (None, "queued", "running"), job
            assert time.monotonic() < deadline, job
        ended.append(job)
    return ended


def test_the_readme_s_first_call_answers_as_printed(stack: Compose) -> None:
    example = next(examples())
    command = example.command.replace(ADDRESS, stack.url)
    answer = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert without_chance(answer.stdout).strip() == without_chance(example.answer).strip()


@pytest.mark.parametrize("service", ["api", "worker"])
def test_a_container_is_nobody_and_cannot_write_to_its_root(stack: Compose, service: str) -> None:
    container = stack.containers(service)[0]
    assert stack.python(container, "import os; print(os.getuid())").strip() == "10001"
    code = "import os; print(os.access('/', os.W_OK), os.access('/opt/falconer', os.W_OK))"
    assert stack.python(container, code).split() == ["False", "False"]
    code = "print(*[line for line in open('/proc/mounts') if line.split()[1] == '/'])"
    assert stack.python(container, code).split()[3].startswith("ro")


@pytest.mark.parametrize(
    ("service", "port"), [("api", "FALCONER_PORT"), ("worker", "FALCONER_METRICS_PORT")]
)
def test_a_container_that_serves_calls_itself_healthy(
    stack: Compose, service: str, port: str
) -> None:
    probe = f"['python', '/opt/falconer/probe.py', '{port}']"
    code = f"import subprocess; print(subprocess.call({probe}))"
    assert stack.python(stack.containers(service)[0], code).strip() == "0"


def test_the_api_image_holds_no_torch(stack: Compose) -> None:
    code = "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'transformers')])"
    assert stack.python(stack.containers("api")[0], code).strip() == "[None, None]"


def test_three_workers_share_a_burst(stack: Compose) -> None:
    shares = Counter(job["worker"] for job in results(stack, submit(stack, tokens=60)))
    assert len(shares) == 3, shares


def test_a_killed_worker_s_jobs_run_elsewhere(stack: Compose) -> None:
    job_ids = submit(stack, tokens=180)
    victim = stack.containers("worker")[0]
    name = stack.hostname(victim)
    eventually(lambda: is_running_jobs(stack, name))
    stack.kill(victim)
    ended = results(stack, job_ids)
    assert any(job["attempts"] > 1 for job in ended), "nothing ran on the killed worker"
    stack.up(workers=3)
    wait_for_workers(stack, 3)


def is_running_jobs(stack: Compose, host: str) -> bool:
    workers = get(stack, "/workers").get("workers", [])
    return any(worker["running"] for worker in workers if worker["id"].startswith(host))


def test_down_and_up_keep_queued_jobs(stack: Compose) -> None:
    stack.down()  # podman-compose takes no container away when there are to be fewer
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
