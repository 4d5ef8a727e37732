from msgspec.structs import replace
from redis.asyncio import Redis

from shared.model_source import MergedAdapter
from shared.queue.keys import Keys
from shared.registry.worker_registry import Registry, hash_card
from tests.factories import make_card, make_worker_info

TOKENIZER = b'{"model": {}}'
VERSE = MergedAdapter(name="verse", strength=1.0, digest="ab")


async def test_without_a_published_card_there_is_no_current_one(redis: Redis, keys: Keys) -> None:
    assert await Registry(redis, keys).current_card() is None


async def test_a_published_card_is_read_unchanged(redis: Redis, keys: Keys) -> None:
    card = make_card(chat_template="{{ messages }}")
    card_hash = await Registry(redis, keys).publish_card(card, TOKENIZER)
    registered = await Registry(redis, keys).current_card()
    assert registered is not None
    assert (registered.hash, registered.card, registered.tokenizer_json) == (
        card_hash,
        card,
        TOKENIZER,
    )
    assert card_hash == hash_card(card, TOKENIZER)


async def test_a_card_contains_the_merged_adapters(redis: Redis, keys: Keys) -> None:
    card = make_card(merged_adapters=(VERSE,))
    await Registry(redis, keys).publish_card(card, TOKENIZER)
    registered = await Registry(redis, keys).current_card()
    assert registered is not None and registered.card == card


def test_the_hash_of_a_card_without_merged_adapters_does_not_change() -> None:
    known_hash = "ea573a2ede267e787b5e430b25d7143d72bdb592ce7d72e2c532ec1f5171e6dd"
    assert hash_card(make_card(), TOKENIZER) == known_hash


def test_merged_adapters_change_the_hash() -> None:
    merged: list[tuple[MergedAdapter, ...]] = [
        (VERSE,),
        (replace(VERSE, name="tales"),),
        (replace(VERSE, strength=0.5),),
        (replace(VERSE, digest="cd"),),
        (VERSE, replace(VERSE, name="tales")),
    ]
    cards = [make_card(), *(make_card(merged_adapters=adapters) for adapters in merged)]
    assert len({hash_card(card, TOKENIZER) for card in cards}) == len(cards)


async def test_an_unchanged_card_is_not_read_again(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    await registry.publish_card(make_card(), TOKENIZER)
    first = await registry.current_card()
    assert await registry.current_card() is first


async def test_the_last_published_card_is_current(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    await registry.publish_card(make_card(), TOKENIZER)
    await registry.current_card()
    newer = await registry.publish_card(make_card(name="newer"), TOKENIZER)
    current = await registry.current_card()
    assert current is not None and current.hash == newer


async def test_workers_with_a_heartbeat_are_listed(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    reports = [make_worker_info(f"w{i}", running=i) for i in range(3)]
    for report in reversed(reports):
        await registry.report(report)
    assert await registry.workers() == reports


async def test_a_worker_without_a_heartbeat_is_not_listed(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    await registry.report(make_worker_info("w1"))
    await redis.pexpire(keys.worker("w1"), 1)
    await redis.delete(keys.worker("w1"))
    assert await registry.workers() == []


async def test_a_removed_worker_is_not_listed(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    await registry.report(make_worker_info("w1"))
    await registry.remove("w1")
    assert await registry.workers() == []
    assert await redis.zcard(keys.workers) == 0


async def test_a_heartbeat_reports_that_redis_lost_the_card(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    card_hash = await registry.publish_card(make_card(), TOKENIZER)
    info = make_worker_info(card_hash=card_hash)
    assert await registry.report(info)
    await redis.flushall()
    assert not await registry.report(info)


async def test_an_unreadable_heartbeat_hides_no_other_worker(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    await registry.report(make_worker_info("w1"))
    await registry.report(make_worker_info("w2"))
    await redis.set(keys.worker("w1"), b"\x01")
    assert [worker.id for worker in await registry.workers()] == ["w2"]


async def test_there_is_no_current_card_while_another_model_loads(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    card_hash = await registry.publish_card(make_card(source="a"), TOKENIZER)
    info = make_worker_info(card_hash=card_hash)
    await registry.announce("a")
    assert await registry.current_card() is not None  # the same model loads again
    await registry.announce("b")
    assert await registry.current_card() is None
    await registry.report(info)
    assert await registry.current_card() is not None  # a worker serves it
    await registry.remove(info.id)
    newer = await registry.publish_card(make_card(name="newer", source="b"), TOKENIZER)
    current = await registry.current_card()
    assert current is not None and current.hash == newer


async def test_a_card_that_no_live_worker_serves_is_replaced(redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    ours = make_worker_info("w1", card_hash=await registry.publish_card(make_card(), TOKENIZER))
    newer = await registry.publish_card(make_card(name="newer"), TOKENIZER)
    theirs = make_worker_info("w2", card_hash=newer)
    assert await registry.report(theirs)
    assert await registry.report(ours)  # both are served: the last published card is current
    await registry.remove("w2")
    assert not await registry.report(ours)
    await registry.publish_card(make_card(), TOKENIZER)
    assert await registry.report(ours)
