"""Samples of the bundled model under random JSON schemas are valid by jsonschema."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from shared.request.structured_outputs import StructuredOutputs
from tests.worker.engine.fake_requests import run_to_end, tokens
from tests.worker.engine.grammar.schemas import schemas
from tests.worker.engine.workload_strategies import examples
from worker.engine import Engine, EngineConfig, FinishReason, Request, SamplingParams
from worker.model.checkpoint.tiny import bundled_checkpoint

NUM_SCHEMAS = 300
EOS = 11
PROMPT = "The answer is"


@pytest.fixture(scope="module")
def engine() -> Engine:
    config = EngineConfig(max_rows=48, max_step_tokens=512)
    return Engine.from_pretrained(str(bundled_checkpoint()), config=config)


def request_for(engine: Engine, number: int, schema: dict[str, Any]) -> Request:
    outputs = StructuredOutputs.model_validate({"json": schema})
    params = SamplingParams(
        max_new_tokens=1500,
        do_sample=True,
        temperature=1.5,
        seed=number,
        eos_token_ids=(EOS,),
        grammar=outputs.to_grammar(),
    )
    prompt = engine.tokenizer.encode(PROMPT).ids
    return Request(request_id=str(number), prompt_token_ids=prompt, params=params)


def test_samples_under_300_random_schemas_are_valid(engine: Engine) -> None:
    """All of them also end by themselves: the schemas bound every value."""
    texts = examples(schemas.map(json.dumps), NUM_SCHEMAS)
    assert len(texts) == NUM_SCHEMAS
    drawn = [json.loads(text) for text in texts]
    for number, schema in enumerate(drawn):
        engine.add(request_for(engine, number, schema))
    outputs = run_to_end(engine)
    wrong = []
    for number, schema in enumerate(drawn):
        made = tokens(outputs[str(number)])
        assert made, outputs[str(number)]
        text = "".join(output.text for output in made)
        if made[-1].finish_reason is not FinishReason.STOP:
            wrong.append((schema, text, "cut"))
            continue
        try:
            Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(text))
        except (ValueError, ValidationError) as error:
            wrong.append((schema, text, str(error)))
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"
