from fakeredis import FakeAsyncRedis

from shared.redis.clock import STALE_S, RedisClock


class Clock:
    now = 7.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_counts_from_the_latest_reading() -> None:
    here = Clock()
    clock = RedisClock(here)
    clock.observe(50_000)
    here.now += 2
    assert clock.deadline_ms(0.5) == 52_500


async def test_the_clock_is_read_at_first_and_again_once_stale() -> None:
    here, redis = Clock(), FakeAsyncRedis()
    clock = RedisClock(here)
    await clock.refresh(redis)
    assert clock.deadline_ms(0) > 1_700_000_000_000
    clock.observe(50_000)
    await clock.refresh(redis)
    assert clock.deadline_ms(0) == 50_000
    here.now += STALE_S + 1
    await clock.refresh(redis)
    assert clock.deadline_ms(0) > 1_700_000_000_000
    await redis.aclose()
