"""A small HTTP service with one job, for tests of the client's own decisions."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 120.0
JOB: dict[str, Any] = {"id": "1", "status": "running", "created_at": "2026-01-01T00:00:00Z"}


class JobService(ThreadingHTTPServer):
    """The service. It answers no submission until the second one arrives.

    `on_first` runs in the thread of the first submission. `job` is the body of the job, and
    `deltas` are the texts of its events.
    """

    daemon_threads = True

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.on_first = on_first
        self.is_repeated = threading.Event()
        self.keys: list[str] = []
        self.cancelled: list[str] = []
        self.job = JOB
        self.deltas: list[str] = []

    def finish(self, text: str, *deltas: str) -> None:
        """Let the job succeed with a text, after other texts in its events."""
        sequence = {"text": text, "finish_reason": "stop", "token_count": 1}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        result = {"Result": text, "id": "1", "sequences": [sequence], "usage": usage, "seed": 0}
        self.job = JOB | {"status": "succeeded", "result": result}
        self.deltas = list(deltas)


class Handler(BaseHTTPRequestHandler):
    server: JobService

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["Idempotency-Key"])
        if len(self.server.keys) == 1:
            self.server.on_first()
            self.server.is_repeated.wait(PATIENCE_S)
        self.server.is_repeated.set()
        self.answer(json.dumps(JOB))

    def do_DELETE(self) -> None:
        self.server.cancelled.append(self.path)
        self.answer(json.dumps(JOB | {"status": "cancelled"}))

    def do_GET(self) -> None:
        if not self.path.endswith("/events"):
            self.answer(json.dumps(self.server.job))
            return
        events = [{"sequence": 0, "delta": text} for text in self.server.deltas]
        lines = [json.dumps(event) for event in (*events, {"status": "succeeded"})]
        body = "".join(f"id: {i}\ndata: {line}\n\n" for i, line in enumerate(lines))
        self.answer(body, "text/event-stream")

    def answer(self, body: str, content_type: str = "application/json") -> None:
        content = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def job_service(on_first: Callable[[], None] = lambda: None) -> Iterator[JobService]:
    """Run the service in a thread."""
    with JobService(on_first) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            yield service
        finally:
            service.is_repeated.set()
            service.shutdown()
            thread.join()
