"""Every process of a small service is restarted under load, and no call fails."""

import asyncio
import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest

from shared.process.sockets import free_port
from tests.integration.service import WAIT_S, ApiChild, Child, Service, WorkerChild, eventually

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]
NUM_CLIENTS = 4


@dataclass
class Clients:
    """Clients that call the apis in turn, plain and streamed, and retry refused connections."""

    urls: list[str]
    num_answered: int = 0
    failures: list[str] = field(default_factory=list)

    async def call_repeatedly(self, number: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
            for index in itertools.count(number):
                body = {
                    "prompt": "Once",
                    "stream": index % 2 == 0,
                    "generate_kwargs": {"max_new_tokens": 8, "eos_token_id": None},
                }
                try:
                    answer = await self._call(http, index, body)
                    is_whole = "succeeded" in answer.text or "Result" in answer.text
                    if answer.status_code != 200 or not is_whole:
                        self.failures.append(f"{answer.status_code}: {answer.text}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self.num_answered += 1

    async def _call(
        self, http: httpx.AsyncClient, index: int, body: dict[str, object]
    ) -> httpx.Response:
        try:
            return await http.post(f"{self.urls[index % 2]}/chat", json=body)
        except httpx.ConnectError:
            return await http.post(f"{self.urls[(index + 1) % 2]}/chat", json=body)

    async def wait_for_calls(self) -> None:
        """Wait until the clients have made some more calls."""
        goal = self.num_answered + 5 * NUM_CLIENTS

        async def is_reached() -> bool:
            return self.num_answered >= goal

        await eventually(is_reached)


async def test_a_rolling_restart_fails_no_request(
    service: Service, start_worker: StartWorker, start_api: StartApi
) -> None:
    ports = [free_port(), free_port()]
    apis = [start_api(port=port) for port in ports]
    workers = [start_worker(), start_worker()]
    await service.ready(*workers)
    for api in apis:
        await api.ready()
    clients = Clients([f"http://127.0.0.1:{port}" for port in ports])
    calling = [asyncio.create_task(clients.call_repeatedly(i)) for i in range(NUM_CLIENTS)]
    await clients.wait_for_calls()
    for worker in workers:
        await service.ready(start_worker())
        await stopped(worker)
        await clients.wait_for_calls()
    for api, port in zip(apis, ports, strict=True):
        await stopped(api)
        await start_api(port=port).ready()
        await clients.wait_for_calls()
    for task in calling:
        task.cancel()
    await asyncio.gather(*calling, return_exceptions=True)
    assert clients.failures == []


async def stopped(child: Child) -> None:
    child.process.send_signal(signal.SIGTERM)
    assert await child.exit_code() == 0, child.log_text
