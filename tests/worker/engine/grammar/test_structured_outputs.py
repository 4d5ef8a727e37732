"""Requests with a grammar: alone, in any batch, with drafts, after a preemption or a takeover."""

import re
from dataclasses import replace

import pytest

from tests.worker.engine.grammar.structures import (
    CONFIG,
    SPELLED,
    STRUCTURES,
    load,
    plain,
    run,
    structured,
    text_of,
)
from worker.engine import (
    Engine,
    EngineConfig,
    Request,
    RequestFailed,
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load(CONFIG)


def is_sum(text: str) -> bool:
    """Return whether Python reads the text as a sum of such numbers."""
    if not re.fullmatch("[0-9+()]+", text) or re.search("[0-9]{4}", text):
        return False
    return isinstance(eval(re.sub("0+([0-9])", r"\1", text)), int)


def test_a_text_matches_its_regex_choice_or_grammar(engine: Engine) -> None:
    numbers = range(0, 5 * 40)
    requests = [structured(engine, number) for number in numbers if number % 7 < 5]
    results = run(engine, requests)
    texts: dict[int, set[str]] = {kind: set() for kind in range(5)}
    for request in requests:
        kind = int(request.request_id.split()[1]) % 7
        texts[kind].add(text_of(engine, results[request.request_id][0]))
    for kind in (0, 1):
        assert all(re.fullmatch(STRUCTURES[kind]["regex"], text) for text in texts[kind])
    assert texts[2] <= set(SPELLED) and len(texts[2]) > 3
    assert all(map(is_sum, texts[3]))
    assert all(re.fullmatch("(<[a-z]{1,9}>){2,4}", text) for text in texts[4])
    assert min(map(len, texts.values())) > 3, "the samples differ"


def test_rows_without_a_grammar_get_the_tokens_they_get_without_such_neighbours(
    engine: Engine,
) -> None:
    greedy = [replace(plain(engine, n), request_id=f"greedy {n}") for n in range(4)]
    greedy = [replace(r, params=replace(r.params, do_sample=False)) for r in greedy]
    others = [*greedy, *(plain(engine, number) for number in range(8))]
    alone = run(engine, others)
    mixed = [request for number in range(12) for request in (structured(engine, number),)]
    together = run(engine, [r for pair in zip(mixed, others, strict=True) for r in pair])
    assert {request.request_id: together[request.request_id] for request in others} == alone


@pytest.fixture(scope="module")
def requests(engine: Engine) -> list[Request]:
    sampled = [
        structured(engine, number, num_return_sequences=1 + number % 2) for number in range(14)
    ]
    greedy = [structured(engine, n, do_sample=False) for n in range(14, 21)]
    beams = [structured(engine, n, do_sample=False, num_beams=3) for n in range(21, 28)]
    return [*sampled, *greedy, *beams]


@pytest.fixture(scope="module")
def alone(engine: Engine, requests: list[Request]) -> dict[str, list[list[int]]]:
    """The result of each request without others."""
    results = {}
    for request in requests:
        results |= run(engine, [request])
    return results


def test_a_batch_changes_no_result(
    engine: Engine, requests: list[Request], alone: dict[str, list[list[int]]]
) -> None:
    assert run(engine, requests) == alone


def test_drafts_change_no_result(
    requests: list[Request], alone: dict[str, list[list[int]]]
) -> None:
    """The prediction repeats half of each result, and then goes astray."""
    drafting = load(replace(CONFIG, prompt_lookup_num_tokens=6, max_drafting_tokens=200))
    predicted = []
    for request in requests:
        known = alone[request.request_id][0]
        prediction = [*request.prompt_token_ids[-2:], *known[: len(known) // 2], 700, 5, 900]
        predicted.append(replace(request, prediction=tuple(prediction)))
    for request in predicted:
        drafting.add(request)
    num_accepted = 0
    results: dict[str, list[int]] = {}
    while drafting.has_work:
        for output in drafting.step():
            assert not isinstance(output, RequestFailed)
            key = f"{output.request_id}, {output.sequence}"
            results.setdefault(key, []).append(output.token_id)
        num_accepted += drafting.last_step.num_accepted_drafts
    for request in requests:
        for index, expected in enumerate(alone[request.request_id]):
            assert results[f"{request.request_id}, {index}"] == expected
    assert num_accepted > 50


def test_preemptions_and_small_steps_change_no_result(
    requests: list[Request], alone: dict[str, list[list[int]]]
) -> None:
    engine = load(EngineConfig(max_rows=12, num_blocks=60, block_size=16, max_step_tokens=16))
    for request in requests:
        engine.add(request)
    results: dict[str, list[list[int]]] = {name: [[] for _ in ids] for name, ids in alone.items()}
    for step in range(2000):
        if step % 5 == 4 and engine.scheduler.running:
            running = engine.scheduler.running
            engine.scheduler.preempt(running[step % len(running)])
        for output in engine.step():
            assert not isinstance(output, RequestFailed)
            results[output.request_id][output.sequence].append(output.token_id)
    assert results == alone
    assert engine.num_preemptions > 20


def test_a_takeover_continues_at_any_token(
    engine: Engine, requests: list[Request], alone: dict[str, list[list[int]]]
) -> None:
    for number, request in enumerate(requests):
        if request.params.num_beams == 1:
            whole = alone[request.request_id]
            earlier = tuple(tuple(ids[: (number * 5 + 1) % len(ids)]) for ids in whole)
            resumed = run(engine, [replace(request, generated=earlier)])[request.request_id]
            rest = [ids[len(e) :] for ids, e in zip(whole, earlier, strict=True)]
            assert resumed == rest
