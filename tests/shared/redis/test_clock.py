from fakeredis import FakeAsyncRedis

from shared.redis.clock import STALE_S, RedisClock


class Clock:
    now = 7.0

    def __call__(self) -> float:
        return self.now


def test_it_goes_on_from_what_it_was_told() -> None:
    here = Clock()
    clock = RedisClock(here)
    clock.tell(50_000, asked_at=here.now)
    here.now += 2
    assert clock.in_ms(0.5) == 52_500


def test_it_tells_how_far_redis_ran_ahead() -> None:
    here = Clock()
    clock = RedisClock(here)
    assert clock.tell(50_000, asked_at=here.now) == 0
    here.now += 2
    assert clock.tell(55_000, asked_at=here.now) == 3


def test_late_answers_are_no_clock_that_runs_ahead() -> None:
    here = Clock()
    clock = RedisClock(here)
    clock.tell(50_000, asked_at=here.now)
    for _ in range(3):
        asked_at = here.now
        here.now += 3  # on its way back
        assert clock.tell(50_000 + 1000 * (asked_at - Clock.now), asked_at) <= 0
        assert clock.tell(50_000 + 1000 * (here.now - Clock.now), here.now) <= 0


async def test_it_asks_at_first_and_again_after_a_while() -> None:
    here, redis = Clock(), FakeAsyncRedis()
    clock = RedisClock(here)
    await clock.refresh(redis)
    assert clock.in_ms(0) > 1_700_000_000_000
    clock.tell(50_000, here.now)
    await clock.refresh(redis)
    assert clock.in_ms(0) == 50_000
    here.now += STALE_S + 1
    await clock.refresh(redis)
    assert clock.in_ms(0) > 1_700_000_000_000
    await redis.aclose()
