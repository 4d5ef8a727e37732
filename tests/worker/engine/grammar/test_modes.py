"""Grammars with greedy decoding and beams, against transformers, and with other parameters."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import FalconForCausalLM

from tests.worker.engine.fake_requests import run_to_end, tokens
from tests.worker.engine.grammar.structures import (
    CONFIG,
    EOS,
    STRUCTURES,
    grammar,
    load,
    run,
    structured,
    text_of,
)
from worker.engine import (
    Engine,
    Executor,
    FailureCause,
    FinishReason,
    RequestFailed,
)
from worker.engine.grammar.output_constraint import CpuBudget
from worker.model.checkpoint.tiny import bundled_checkpoint


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load(CONFIG)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: next(iter(structure)))
@pytest.mark.parametrize("num_beams", [1, 3])
def test_greedy_and_beams_give_the_tokens_of_transformers(
    engine: Engine, structure: dict[str, Any], num_beams: int
) -> None:
    """The oracle bans tokens by its own `prefix_allowed_tokens_fn`."""
    request = structured(engine, 3, do_sample=False, num_beams=num_beams, max_new_tokens=24)
    request = replace(request, params=replace(request.params, grammar=grammar(**structure)))
    prompt = request.prompt_token_ids
    constraint = engine.grammars.constrain(request.params, CpuBudget())
    assert constraint is not None

    def allowed(_: int, token_ids: torch.Tensor) -> list[int]:
        generated = token_ids[len(prompt) :].tolist()
        mask = constraint.mask(generated).view("uint8")
        bits = torch.from_numpy(mask)[:, None] >> torch.arange(8) & 1
        return bits.flatten().nonzero()[:, 0].tolist() or [EOS]

    model = FalconForCausalLM.from_pretrained(bundled_checkpoint(), dtype=torch.float32).eval()
    [expected] = model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=24,
        eos_token_id=EOS,
        pad_token_id=EOS,
        prefix_allowed_tokens_fn=allowed,
    )
    [result] = run(engine, [request])[request.request_id]
    padded = result + [EOS] * (len(expected) - len(prompt) - len(result))
    assert padded == expected[len(prompt) :].tolist()


def test_openvino_samples_under_a_grammar_too() -> None:
    pytest.importorskip("openvino")
    engine = load(replace(CONFIG, block_size=32), Executor.OPENVINO)
    requests = [structured(engine, 7 * number) for number in range(4)]
    for [token_ids] in run(engine, requests).values():
        assert re.fullmatch(STRUCTURES[0]["regex"], text_of(engine, token_ids))


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_request_whose_parameters_ban_the_grammar_fails_alone(
    engine: Engine, do_sample: bool
) -> None:
    params: dict[str, Any] = {"do_sample": do_sample}
    params |= {"grammar": grammar(choice=["yes", "yeah"]), "max_new_tokens": 20}
    too_long = structured(engine, 0, **params, min_new_tokens=15)
    banned = structured(engine, 1, **params, suppress_tokens=tuple(range(EOS + 1, 2048)))
    fine = structured(engine, 2, **params)
    for request in (too_long, banned, fine):
        engine.add(request)
    outputs = run_to_end(engine)
    for request in (too_long, banned):
        [*_, failed] = outputs[request.request_id]
        assert isinstance(failed, RequestFailed)
        assert failed.cause is FailureCause.PARAMETERS
    last = tokens(outputs[fine.request_id])[-1]
    assert last.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_ambiguous_grammar_fails_its_request_alone(engine: Engine, num_beams: int) -> None:
    """The masks of such a grammar would take CPU time that grows as a power of the length."""
    ambiguous = grammar(grammar='start: a\na: a a | a a a | a a a a | /[a-z]/ | ""')
    hostile = structured(
        engine, 0, grammar=ambiguous, min_new_tokens=400, max_new_tokens=400, num_beams=num_beams
    )
    neighbour = structured(engine, 1)
    alone = run(engine, [neighbour])
    engine.add(hostile)
    engine.add(neighbour)
    outputs = run_to_end(engine)
    failed = outputs[hostile.request_id][-1]
    assert isinstance(failed, RequestFailed) and failed.cause is FailureCause.GRAMMAR
    assert failed.message.startswith("the text cannot follow its grammar: ")
    found = [output.token_id for output in tokens(outputs[neighbour.request_id])]
    assert [found] == alone[neighbour.request_id]


@pytest.mark.parametrize(
    "structure",
    [
        {"choice": [f"{number} falcons" for number in range(1024)]},
        {"choice": ["x" * number for number in range(1, 512)]},
        {"json": {"enum": list(range(3000))}},
        {"json": {"anyOf": [{"const": {"kind": f"k{i}", "v": i}} for i in range(300)]}},
    ],
    ids=["choices", "prefixes", "enum", "variants"],
)
def test_structures_of_many_parts_stay_within_the_limits(
    engine: Engine, structure: dict[str, Any]
) -> None:
    request = structured(engine, 0, grammar=grammar(**structure), max_new_tokens=600)
    assert run(engine, [request])[request.request_id][0][-1] == EOS


@pytest.mark.parametrize("do_sample", [False, True])
def test_beams_that_cannot_end_are_cut(engine: Engine, do_sample: bool) -> None:
    """transformers returns the best beam if none has ended."""
    params: dict[str, Any] = {"do_sample": do_sample, "num_beams": 2, "min_new_tokens": 15}
    engine.add(structured(engine, 0, **params, grammar=grammar(choice=["yes", "yeah"])))
    [outputs] = run_to_end(engine).values()
    last = outputs[-1]
    if not isinstance(last, RequestFailed):
        assert last.finish_reason is FinishReason.LENGTH
        assert "yes yeah".find("".join(output.text for output in tokens(outputs))) >= 0


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"grammar": grammar(regex="(")}, "grammar must be valid: .*unclosed group"),
        ({"eos_token_ids": ()}, "eos_token_ids must hold a token with a grammar"),
        (
            {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": False},
            "grammar must be None with num_beam_groups > 1",
        ),
    ],
)
def test_a_grammar_that_cannot_run_is_refused(
    engine: Engine, params: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s){reason}"):
        engine.add(structured(engine, 0, **params))
    assert not engine.has_work
