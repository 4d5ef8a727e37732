"""Random traffic through the whole engine over a strict fake model.

Whatever arrives, whatever is cancelled, however little room there is: every sequence gets exactly
the tokens it would get alone, blocks are never mixed up or lost, and no request starves.
"""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import FakeRunner, engine_on_fake_runner, hashed_letter, stutter
from worker.engine import Engine, Request, RequestFailed, SamplingParams, TokenOutput
from worker.engine.sequence import Sequence

BLOCK_SIZE = 4
CRASH, NAN = 1, 2
ADAPTERS = ("tales", "verse")


@dataclass
class Arrival:
    """A request, the steps that pass before it comes, and those before it is aborted, if ever."""

    request: Request
    after: int
    abort_after: int | None


@st.composite
def traffic(draw: st.DrawFn, *, faults: bool) -> list[Arrival]:
    first_token = st.sampled_from([CRASH, NAN, *range(97, 110)] if faults else range(97, 110))
    count = draw(st.integers(1, 8))
    return [
        Arrival(
            Request(
                request_id=str(number),
                prompt_token_ids=[draw(first_token)] * draw(st.integers(1, 14)),
                params=SamplingParams(
                    max_new_tokens=draw(st.integers(1, 10)),
                    num_return_sequences=draw(st.integers(1, 3)),
                    prompt_lookup_num_tokens=draw(st.integers(0, 6)),
                ),
                priority=0 if not faults else draw(st.integers(-1, 1)),
                adapter=draw(st.none() | st.sampled_from(ADAPTERS)),
            ),
            after=draw(st.integers(0, 4)),
            abort_after=draw(st.none() | st.integers(0, 8)) if faults else None,
        )
        for number in range(count)
    ]


@st.composite
def engines(draw: st.DrawFn) -> Engine:
    """Small pools: 24 tokens are just enough for the longest sequence alone."""
    max_rows = draw(st.integers(1, 6))
    runner = FakeRunner(
        num_blocks=draw(st.integers(6, 16)),
        block_size=BLOCK_SIZE,
        next_token=draw(st.sampled_from([hashed_letter, stutter])),
        crash_token=CRASH,
        nan_token=NAN,
    )
    return engine_on_fake_runner(
        runner,
        max_rows=max_rows,
        block_size=BLOCK_SIZE,
        max_step_tokens=draw(st.integers(max_rows, 20)),
        adapters=ADAPTERS,
    )


class Driver:
    """Plays traffic against an engine and checks every step."""

    def __init__(self, engine: Engine, arrivals: list[Arrival]) -> None:
        self.engine = engine
        self.arrivals = arrivals
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.failed: set[str] = set()
        self.aborted: set[str] = set()
        self.num_accepted_drafts = 0

    def run(self) -> None:
        for arrival in self.arrivals:
            for _ in range(arrival.after):
                self.step()
            self.engine.add(arrival.request)
            if arrival.abort_after is not None:
                for _ in range(arrival.abort_after):
                    self.step()
                self.engine.abort(arrival.request.request_id)
                self.aborted.add(arrival.request.request_id)
                self.check_blocks()
        # The first in line gains a token in every step: no run can be longer than this.
        for _ in range(self.num_tokens_left()):
            self.step()
        assert not self.engine.has_work, "a request starves"

    def step(self) -> None:
        for output in self.engine.step():
            assert output.request_id not in self.failed | self.aborted, "output after the end"
            if isinstance(output, RequestFailed):
                self.failed.add(output.request_id)
            else:
                self.record(output)
        report, config = self.engine.last_step, self.engine.config
        assert report.num_rows <= config.max_rows
        assert report.num_tokens <= config.max_step_tokens
        self.num_accepted_drafts += report.num_accepted_drafts
        self.check_blocks()

    def record(self, output: TokenOutput) -> None:
        self.tokens.setdefault((output.request_id, output.sequence), []).append(output.token_id)

    def check_blocks(self) -> None:
        scheduler = self.engine.scheduler
        sequences = (s for group in scheduler.groups for s in group.sequences)
        scheduler.block_manager.check_integrity(sequences)

    def num_tokens_left(self) -> int:
        groups = self.engine.scheduler.groups
        return sum(s.max_length for group in groups for s in group.sequences)


def alone(engine: Engine, request: Request) -> list[int]:
    assert isinstance(engine.runner, FakeRunner)
    context = list(request.prompt_token_ids)
    for _ in range(request.params.max_new_tokens):
        context.append(engine.runner.next_token(context))
    return context[len(request.prompt_token_ids) :]


def test_every_request_gets_the_tokens_it_would_get_alone() -> None:
    num_accepted_drafts = 0

    @settings(max_examples=150)
    @given(engines(), traffic(faults=False))
    def check(engine: Engine, arrivals: list[Arrival]) -> None:
        nonlocal num_accepted_drafts
        driver = Driver(engine, arrivals)
        driver.run()
        expected = {
            (arrival.request.request_id, index): alone(engine, arrival.request)
            for arrival in arrivals
            for index in range(arrival.request.params.num_return_sequences)
        }
        assert driver.tokens == expected
        assert engine.used_kv_tokens == 0
        num_accepted_drafts += driver.num_accepted_drafts

    check()
    assert num_accepted_drafts > 100


@settings(max_examples=150)
@given(engines(), traffic(faults=True))
def test_faults_and_aborts_affect_no_other_request(engine: Engine, arrivals: list[Arrival]) -> None:
    driver = Driver(engine, arrivals)
    driver.run()
    for arrival in arrivals:
        request = arrival.request
        is_faulty = request.prompt_token_ids[0] in (CRASH, NAN)
        if request.request_id in driver.aborted:
            continue
        assert (request.request_id in driver.failed) == is_faulty
        if not is_faulty:
            for index in range(request.params.num_return_sequences):
                assert driver.tokens[request.request_id, index] == alone(engine, request)
    assert engine.used_kv_tokens == 0


@settings(max_examples=100)
@given(engines(), traffic(faults=False))
def test_the_oldest_sequence_makes_progress_in_every_step(
    engine: Engine, arrivals: list[Arrival]
) -> None:
    for arrival in arrivals:
        engine.add(arrival.request)
    while engine.has_work:
        oldest = min(_unfinished(engine), key=lambda sequence: sequence.arrival)
        before = (oldest.num_computed_tokens, oldest.num_tokens)
        engine.step()
        finished = oldest not in _unfinished(engine)
        assert finished or (oldest.num_computed_tokens, oldest.num_tokens) > before


def _unfinished(engine: Engine) -> list[Sequence]:
    return [sequence for group in engine.scheduler.groups for sequence in group.sequences]
