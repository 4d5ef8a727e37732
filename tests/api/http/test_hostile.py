"""Hostile requests to an api process: each gets a 4xx, and the process keeps its size."""

import gzip
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.api.api_process import ApiProcess, response_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MIB = 2**20
SIZE = 100 * MIB
PIECE = b"a" * MIB
HEAD = b"POST /chat HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
ANNOUNCED = HEAD + b"Content-Length: %d\r\n\r\n" % SIZE
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n" % len(PIECE) + PIECE + b"\r\n"


def peak_bytes(api: ApiProcess) -> int:
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def send_all(connection: socket.socket, piece: bytes) -> None:
    for _ in range(SIZE // MIB):
        connection.sendall(piece)


def status_and_detail(connection: socket.socket) -> tuple[int, str]:
    response = response_of(connection)
    return response.status, json.loads(response.read())["detail"]


ENDLESS = [b"GET /", HEAD + b"X-Long: ", CHUNKED + b"0\r\nX-Long: "]
MALFORMED = [
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 9999999999999999999999\r\n\r\n",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the start of a TLS handshake
    b"GET /\x00 HTTP/1.1\r\nHost: api\r\n\r\n",
]


def test_a_body_of_a_hundred_megabytes_is_rejected_and_not_buffered(module_api: ApiProcess) -> None:
    before = peak_bytes(module_api)
    for head, piece, end in [(ANNOUNCED, PIECE, b""), (CHUNKED, CHUNK, b"0\r\n\r\n")]:
        with module_api.connect() as connection:
            connection.sendall(head)
            send_all(connection, piece)
            connection.sendall(end)
            assert status_and_detail(connection) == (413, "body: must be at most 1048576 bytes")
    with module_api.connect() as connection:
        bomb = gzip.compress(bytes(SIZE))
        head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
        connection.sendall(HEAD + head + bomb)
        assert status_and_detail(connection) == (
            413,
            "body: must be at most 1048576 bytes, decompressed",
        )
    assert peak_bytes(module_api) - before < 20 * MIB
    assert module_api.num_jobs("queued") == 0


def test_a_head_or_trailer_of_a_hundred_megabytes_is_cut_off(module_api: ApiProcess) -> None:
    before = peak_bytes(module_api)
    for start in ENDLESS:
        with module_api.connect() as connection:
            connection.sendall(start)
            with pytest.raises(ConnectionError):
                send_all(connection, PIECE)
    assert peak_bytes(module_api) - before < 20 * MIB
    assert module_api.get("/livez")[0] == 200


def test_malformed_http_is_rejected(module_api: ApiProcess) -> None:
    for head in MALFORMED:
        with module_api.connect() as connection:
            connection.sendall(head)
            assert response_of(connection).status in (400, 413), head
    assert module_api.num_jobs("queued") == 0
