"""The set of adapters in Redis: changes by several replicas, and the agreement of workers."""

from redis.asyncio import Redis

from shared.queue.keys import Keys
from shared.registry.adapter_registry import AdapterRegistry, AdapterSet
from tests.factories import make_worker_info


async def test_the_later_of_two_changes_is_refused(redis: Redis, keys: Keys) -> None:
    registry = AdapterRegistry(redis, keys)
    empty = await registry.read()
    assert empty == AdapterSet()
    ode = empty.with_path("ode", "a")
    assert await registry.change(empty, ode)
    assert await registry.change(empty, ode)  # sent twice after an outage
    assert not await registry.change(empty, empty.with_path("epic", "b"))
    assert await registry.read() == ode
    assert await registry.change(ode, ode.without("ode"))
    assert await registry.read() == AdapterSet(generation=2)


def test_an_adapter_is_served_once_every_worker_reports_its_generation() -> None:
    first = AdapterSet().with_path("ode", "a")
    both = first.with_path("epic", "b")
    ahead, behind = (make_worker_info(f"w{n}", adapter_generation=n) for n in (2, 1))
    failed = make_worker_info("w3", adapter_generation=2, adapter_errors={"ode": "no such folder"})
    assert both.served_by([ahead]) == ("ode", "epic")
    assert both.served_by([ahead, behind]) == ("ode",)
    assert both.served_by([ahead, failed]) == ("epic",)
    assert both.served_by([]) == ("ode", "epic")


def test_a_replaced_adapter_counts_from_its_replacement() -> None:
    first = AdapterSet().with_path("ode", "a")
    replaced = first.with_path("ode", "b")
    earlier = first.find("ode")
    assert earlier is not None
    restored = replaced.with_earlier(earlier)
    assert (restored.generation, restored.find("ode")) == (3, earlier)
    assert replaced.served_by([make_worker_info("w1", adapter_generation=1)]) == ()
