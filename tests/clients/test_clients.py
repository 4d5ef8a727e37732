"""HTTP clients in common use, each against the same service."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import requests

from tests.clients.calls import REQUEST, Report, check_calls, check_events, parse_report
from tests.clients.pages import PageServer
from tests.processes import end

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / ".falconer" / "clients"  # `make clients-test` fills it
PATIENCE_S = 180.0
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)


def needs(program: str, package: str) -> pytest.MarkDecorator:
    reason = f"no {program} on the PATH (Debian: apt-get install {package})"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def output_of(*command: object, **options: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs("java", "default-jdk-headless")
def test_java_runs_every_call(url: str, expected: str) -> None:
    limits = ("-Xmx256m", "-XX:+UseSerialGC")
    check_calls(parse_report(output_of("java", *limits, HERE / "Client.java", url)), expected)


@needs("node", "nodejs")
def test_fetch_of_node_runs_every_call(url: str, expected: str) -> None:
    check_calls(parse_report(output_of("node", HERE / "node.mjs", url)), expected)


@needs("node", "nodejs")
@pytest.mark.skipif(
    not (PACKAGES / "node_modules" / "eventsource").exists(),
    reason="no eventsource package: make clients-test installs it",
)
def test_eventsource_of_node_follows_a_job(url: str, expected: str) -> None:
    report = parse_report(output_of("node", HERE / "node.mjs", url, PACKAGES))
    check_events(report["followed"], expected)


class Answer(Protocol):
    """The common interface of the responses of requests and httpx."""

    status_code: int
    text: str
    headers: Any

    def json(self) -> Any: ...


def polled(get: Callable[[str], Answer], location: str) -> str:
    for _ in range(60):
        answer = get(f"{location}?wait=10")
        if answer.json()["status"] == "succeeded":
            return answer.text
    raise AssertionError("the job did not end")


def calls_of(
    url: str,
    get: Callable[[str], Answer],
    post: Callable[[str, Any], Answer],
    lines: list[str],
) -> Report:
    """Return the report; the clients differ only in how they stream."""
    location = post(f"{url}/jobs", REQUEST).headers["Location"]
    error = post(f"{url}/chat", REQUEST | {"nonsense": 1})
    return {
        "chat": [post(f"{url}/chat", REQUEST).text],
        "event": [line.removeprefix("data: ") for line in lines if line.startswith("data: ")],
        "job": [polled(get, url + location)],
        "error": [f"{error.status_code} {error.text}"],
    }


def test_requests_runs_every_call(url: str, expected: str) -> None:
    with requests.Session() as http:
        http.trust_env = False
        body = REQUEST | {"stream": True}
        with http.post(f"{url}/chat", json=body, stream=True, timeout=PATIENCE_S) as stream:
            lines = list(stream.iter_lines(decode_unicode=True))
        report = calls_of(
            url,
            lambda address: http.get(address, timeout=PATIENCE_S),
            lambda address, body: http.post(address, json=body, timeout=PATIENCE_S),
            lines,
        )
    check_calls(report, expected)


def test_httpx_runs_every_call(url: str, expected: str) -> None:
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as http:
        with http.stream("POST", f"{url}/chat", json=REQUEST | {"stream": True}) as stream:
            lines = list(stream.iter_lines())
        report = calls_of(url, http.get, lambda address, body: http.post(address, json=body), lines)
    check_calls(report, expected)


@needs("curl", "curl")
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl_runs_every_call(url: str, expected: str, version: str) -> None:
    if version == "--http2" and "HTTP2" not in output_of("curl", "--version"):
        pytest.skip("this curl has no HTTP/2")
    curl = ("curl", "-sN", version, "--noproxy", "*", "-H", "Content-Type: application/json")

    def post(path: str, fields: dict[str, Any], *flags: str) -> str:
        return output_of(*curl, *flags, "-d", json.dumps(fields), url + path)

    events = post("/chat", REQUEST | {"stream": True}).splitlines()
    job = json.loads(post("/jobs", REQUEST))["id"]
    body, _, status = post("/chat", REQUEST | {"nonsense": 1}, "-w", "\t%{http_code}").partition(
        "\t"
    )
    report = {
        "chat": [post("/chat", REQUEST)],
        "event": [line.removeprefix("data: ") for line in events if line.startswith("data: ")],
        "job": [output_of(*curl, f"{url}/jobs/{job}?wait=60")],
        "error": [f"{status} {body}"],
    }
    check_calls(report, expected)


@needs("curl", "curl")
def test_curl_may_use_the_api_as_its_proxy(url: str) -> None:
    """curl sends an absolute target."""
    elsewhere = "http://elsewhere.example/livez"
    assert "alive" in output_of("curl", "-s", "--noproxy", "", "--proxy", url, elsewhere)


def netcat() -> str | None:
    """Return the path of OpenBSD's netcat, which has -N to half-close the connection."""
    path = shutil.which("nc")
    if path is None:
        return None
    usage = subprocess.run([path, "-h"], capture_output=True, text=True, check=False)
    return path if "-N" in usage.stdout + usage.stderr else None


@pytest.mark.skipif(netcat() is None, reason="no nc -N (Debian: apt-get install netcat-openbsd)")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_netcat_that_half_closes(url: str, expected: str, version: str, stream: bool) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(REQUEST | {"stream": stream})
    head = f"POST /chat HTTP/{version}\r\nHost: api\r\nContent-Length: {len(body)}\r\n\r\n"
    told = output_of(str(netcat()), "-N", host, port, input=head + body)
    assert told.startswith("HTTP/1.1 200 OK\n")
    if stream:
        lines = told.splitlines()
        check_events([line[6:] for line in lines if line.startswith("data: ")], expected)
    else:
        assert json.loads(told.partition("\n\n")[2])["sequences"][0]["text"] == expected


def browse(address: str, profile: Path, pages: PageServer) -> Report:
    """Open a page in a browser, and return its report."""
    command = [str(CHROMIUM), *CHROMIUM_FLAGS, f"--user-data-dir={profile}", address]
    environment = os.environ | {"HOME": str(profile)}
    with (profile / "log").open("wb") as log:
        browser = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            return parse_report(pages.reports.get(timeout=PATIENCE_S))
        finally:
            end(browser)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian: apt-get install chromium)")
def test_a_page_of_an_allowed_origin(
    url: str, expected: str, pages: PageServer, tmp_path: Path
) -> None:
    report = browse(f"http://127.0.0.1:{pages.port}/page.html?api={url}", tmp_path, pages)
    check_calls(report, expected)
    check_events(report["followed"], expected)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian: apt-get install chromium)")
def test_a_page_of_another_origin_is_blocked(url: str, pages: PageServer, tmp_path: Path) -> None:
    report = browse(f"http://localhost:{pages.port}/page.html?api={url}", tmp_path, pages)
    assert set(report) == {"failure"}
    assert "Failed to fetch" in report["failure"][0]
