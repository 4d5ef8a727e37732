from fakeredis import FakeAsyncRedis

from shared.redis_clock import STALE_S, RedisClock


class Clock:
    now = 7.0

    def __call__(self) -> float:
        return self.now


def test_it_goes_on_from_what_it_was_told() -> None:
    here = Clock()
    clock = RedisClock(here)
    assert clock.tell(50_000) == 0
    here.now += 2
    assert clock.in_ms(0.5) == 52_500
    assert clock.tell(55_000) == 3  # ahead of what was to be expected
    here.now += 1
    assert clock.tell(55_500) == -0.5


async def test_it_asks_at_first_and_again_after_a_while() -> None:
    here, redis = Clock(), FakeAsyncRedis()
    clock = RedisClock(here)
    await clock.refresh(redis)
    assert clock.in_ms(0) > 1_700_000_000_000
    clock.tell(50_000)
    await clock.refresh(redis)
    assert clock.in_ms(0) == 50_000
    here.now += STALE_S + 1
    await clock.refresh(redis)
    assert clock.in_ms(0) > 1_700_000_000_000
    await redis.aclose()
