"""A short run of the harness, and proof that it sees a broken promise when there is one."""

import time
from pathlib import Path

import pytest

from shared.protocol import JobStatus
from tests.chaos.asks import draw_asks
from tests.chaos.expectations import Expectations
from tests.chaos.history import Mishap, Piece, Sight, Story, Stream, Try
from tests.chaos.plans import Kind, Plan, Whim, draw_plans
from tests.chaos.promises import Promises
from tests.chaos.run import RunSettings, run
from tests.chaos.schedule import Fault, FaultKind, Fleet, draw_schedule
from tests.chaos.weather import Weather

FLEET = Fleet(num_apis=2, num_workers=2, lease_s=2.0)
ASKS = draw_asks(1, 10)
TEXT = " one two"


@pytest.mark.integration
async def test_a_short_run_breaks_no_promise(tmp_path: Path) -> None:
    """Its seed draws the death of a worker, of a replica and of Redis, a freeze, a black hole."""
    settings = RunSettings(seed=1283, num_jobs=60, num_faults=5, concurrency=12, fleet=FLEET)
    outcome = await run(settings, tmp_path)
    assert [f"{violation}" for violation in outcome.violations] == []
    assert len(outcome.weather.outages) == 5
    assert sum(story.end is not None for story in outcome.history.stories) > 40


def test_a_seed_draws_the_same_run_every_time() -> None:
    for seed in (1, 2):
        asks = draw_asks(seed, 10)
        assert asks == draw_asks(seed, 10)
        assert draw_plans(seed, 50, asks) == draw_plans(seed, 50, asks)
        assert draw_schedule(seed, 20, 50, FLEET) == draw_schedule(seed, 20, 50, FLEET)
    assert draw_asks(1, 10) != draw_asks(2, 10)


def test_every_kind_of_fault_strikes_where_there_is_room_for_all() -> None:
    schedule = draw_schedule(3, 11, 100, FLEET)
    assert {fault.kind for fault in schedule} == set(FaultKind)
    places = [fault.after_jobs for fault in schedule]
    assert places == sorted(places)


def make_plan(kind: Kind = Kind.STREAM, whim: Whim = Whim.NONE) -> Plan:
    plans = draw_plans(1, 500, [ask for ask in ASKS if not ask.is_beam])
    return next(plan for plan in plans if (plan.kind, plan.whim) == (kind, whim))


def make_result(text: str = TEXT) -> dict[str, object]:
    sequence = {"text": text, "finish_reason": "length", "token_count": 2, "token_ids": [1, 2]}
    return {"Result": text, "usage": {"total_tokens": 4}, "seed": 1, "sequences": [sequence]}


def make_story(plan: Plan | None = None) -> Story:
    """A stream of two tokens and its end; nothing is wrong with it."""
    story = Story(plan or make_plan())
    began = story.began
    story.tries.append(Try("api-1", "POST /chat", began, began + 1, status=200))
    pieces = [Piece(0, 0, " one", (1,)), Piece(1, 0, " two", (2,))]
    story.streams.append(Stream("j", "POST /chat", None, pieces, end_index=2))
    see(story, JobStatus.SUCCEEDED, at=began + 1, result=make_result())
    return story


def see(
    story: Story,
    status: JobStatus,
    *,
    at: float,
    result: dict[str, object] | None = None,
    job_id: str = "j",
) -> None:
    story.sights.append(Sight(job_id, status, at, at, "GET", result))


def broken(story: Story, weather: Weather | None = None) -> list[str]:
    expected = Expectations({story.plan.ask.name: make_result()})
    return [found.what for found in Promises(weather or Weather(), expected).broken_by(story)]


def test_a_story_without_fault_breaks_nothing() -> None:
    assert broken(make_story()) == []


@pytest.mark.parametrize(
    ("indices", "said"),
    [((0, 2), "id 2 where 1 was due"), ((0, 0), "id 0 where 1 was due"), ((1, 2), "id 1 where 0")],
)
def test_a_gap_and_a_repeat_in_a_stream_are_seen(indices: tuple[int, int], said: str) -> None:
    story = make_story()
    texts = (" one", " two")
    story.streams[0].pieces = [
        Piece(index, 0, text, (1,)) for index, text in zip(indices, texts, strict=True)
    ]
    assert any(said in what for what in broken(story))


def test_a_resumed_stream_must_go_on_where_it_broke_off() -> None:
    story = make_story()
    story.streams[0].end_index = None
    first, second = story.streams[0].pieces
    story.streams[0].pieces = [first]
    story.streams.append(Stream("j", "GET", after=0, pieces=[second], end_index=2))
    assert broken(story) == []
    story.streams[1].pieces = []
    assert any("was due" in what for what in broken(story))


def test_another_text_than_undisturbed_is_seen() -> None:
    story = make_story()
    see(story, JobStatus.SUCCEEDED, at=story.began + 2, result=make_result(" else"))
    assert any("expected" in what for what in broken(story))


def test_two_ends_of_one_job_are_seen() -> None:
    story = make_story(make_plan(whim=Whim.CANCEL))
    see(story, JobStatus.CANCELLED, at=story.began + 2)
    assert any("but" in what for what in broken(story))


def make_retried(kind: Kind) -> Story:
    """A job that its caller cancelled, and its retry, which has not ended yet."""
    story = Story(make_plan(kind, Whim.RETRY))
    see(story, JobStatus.CANCELLED, at=story.began + 1)
    story.retry_id = "retry"
    see(story, JobStatus.QUEUED, at=story.began + 2, job_id="retry")
    return story


def test_a_retry_is_a_new_job_with_exactly_one_terminal_event() -> None:
    story = make_retried(Kind.POLL)
    assert broken(story) == ["job retry has no end"]
    at = story.began + 3
    see(story, JobStatus.SUCCEEDED, at=at, result=make_result(), job_id="retry")
    assert broken(story) == []
    see(story, JobStatus.CANCELLED, at=at + 1, job_id="retry")
    assert any("but" in what for what in broken(story))
    assert any("nobody cancelled the retry" in what for what in broken(story))


def test_a_retried_job_stays_as_it_ended() -> None:
    story = make_retried(Kind.POLL)
    see(story, JobStatus.SUCCEEDED, at=story.began + 3, result=make_result(), job_id="retry")
    see(story, JobStatus.QUEUED, at=story.began + 4)
    assert any("after its end" in what for what in broken(story))


def test_the_events_of_a_retry_count_from_0() -> None:
    story = make_retried(Kind.EVENTS)
    story.streams.append(Stream("j", "GET", None, [Piece(0, 0, " one", (1,))], end_index=1))
    pieces = [Piece(0, 0, " one", (1,)), Piece(1, 0, " two", (2,))]
    story.streams.append(Stream("retry", "GET", None, pieces, end_index=2))
    see(story, JobStatus.SUCCEEDED, at=story.began + 3, result=make_result(), job_id="retry")
    assert broken(story) == []
    story.streams[1].pieces = pieces[1:]
    assert any("id 1 where 0 was due" in what for what in broken(story))


def test_a_job_that_runs_after_its_end_is_seen() -> None:
    story = make_story()
    see(story, JobStatus.RUNNING, at=story.began + 2)
    assert any("after its end" in what for what in broken(story))


def test_a_job_without_an_end_is_seen() -> None:
    story = make_story()
    story.sights.clear()
    assert any("has no end" in what for what in broken(story))


def test_an_end_that_nobody_asked_for_is_seen() -> None:
    story = make_story()
    story.sights.clear()
    see(story, JobStatus.CANCELLED, at=story.began + 1)
    assert any("nobody cancelled" in what for what in broken(story))


def failing(
    *, status: int | None = None, mishap: Mishap | None = None, retry_after: str | None = None
) -> Story:
    story = make_story()
    now = story.began
    story.tries.append(Try("api-1", "GET /jobs/j", now, now + 1, status, mishap, retry_after))
    return story


def test_errors_are_excused_by_a_fault_of_their_own_replica_only() -> None:
    away = Fault(0, FaultKind.CUT, "api-1", after_jobs=0, lasts_s=1, drops=False)
    elsewhere = Fault(1, FaultKind.CUT, "api-2", after_jobs=0, lasts_s=1, drops=False)
    for fault, num_broken in ((away, 0), (elsewhere, 1)):
        story, weather = failing(status=503, retry_after="1"), Weather()
        with weather.broken(fault):
            assert len(broken(story, weather)) == num_broken


@pytest.mark.parametrize("status", [500, 503, 504, 404, 422, 429])
def test_no_call_is_refused_while_nothing_is_broken(status: int) -> None:
    assert len(broken(failing(status=status, retry_after="1"))) == 1


@pytest.mark.parametrize("mishap", [Mishap.BROKEN, Mishap.REFUSED, Mishap.HUNG])
def test_no_answer_is_lost_while_nothing_is_broken(mishap: Mishap) -> None:
    assert len(broken(failing(mishap=mishap))) == 1


def test_a_503_must_say_when_to_come_back() -> None:
    weather = Weather()
    fault = Fault(0, FaultKind.REDIS_KILL, "redis", after_jobs=0, lasts_s=1, drops=False)
    with weather.broken(fault):
        story = failing(status=503)
        assert any("no Retry-After" in what for what in broken(story, weather))


def test_two_jobs_under_one_key_are_seen() -> None:
    plan = next(p for p in draw_plans(1, 500, ASKS) if p.key is not None and not p.ask.is_beam)
    story = make_story(plan)
    now = time.monotonic()
    story.sights.append(Sight("k", JobStatus.SUCCEEDED, now, now, "GET", make_result()))
    assert any("one key made the jobs" in what for what in broken(story))


def test_callers_have_only_whims_that_fit_them() -> None:
    for plan in draw_plans(5, 2000, ASKS):
        if plan.whim in (Whim.REPEAT, Whim.CONFLICT):
            assert plan.key is not None
        if plan.whim is Whim.LEAVE:
            assert plan.kind in (Kind.SYNC, Kind.STREAM) and plan.key is None
        assert plan.kind is not Kind.BAD or plan.whim is Whim.NONE


def test_bad_input_comes_on_top_of_the_calls_that_ask_for_a_job() -> None:
    plans = draw_plans(6, 300, ASKS)
    assert sum(plan.asks_for_a_job for plan in plans) == 300
    assert len(plans) > 300
