"""A web server with another origin than the api: one page, which reports what it received."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Pages(SimpleHTTPRequestHandler):
    """Serves this folder, and puts posted reports into a queue."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def __init__(self, *args: Any, reports: "queue.Queue[str]", **kwargs: Any) -> None:
        self._reports = reports
        super().__init__(*args, directory=str(HERE), **kwargs)

    def do_POST(self) -> None:
        self._reports.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class PageServer:
    def __init__(self) -> None:
        self.reports: queue.Queue[str] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, reports=self.reports))
        self.port = self._server.server_address[1]

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def page_server() -> Iterator[PageServer]:
    server = PageServer()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
