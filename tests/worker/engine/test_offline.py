"""The engine in a script: `generate`, and the page that shows it."""

import re
from pathlib import Path

import pytest
import torch

from tests.fakes import FakeRunner, engine_on_fake_runner
from worker.engine import (
    Engine,
    FinishReason,
    GenerationFailed,
    Request,
    SamplingParams,
    generate,
)
from worker.model.checkpoint.tiny import bundled_checkpoint

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "engine.md"
NAN = 2


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return Engine.from_pretrained(str(bundled_checkpoint()))


def test_each_prompt_gets_its_completions_in_order(tiny: Engine) -> None:
    params = SamplingParams(max_new_tokens=8, do_sample=True, seed=3, num_return_sequences=2)
    together = generate(tiny, ["Once upon a time", "The falcon"], params)
    alone = [generate(tiny, [prompt], params)[0] for prompt in ("Once upon a time", "The falcon")]
    assert together == alone
    assert len({tuple(c.token_ids) for completions in together for c in completions}) == 4
    assert all(c.finish_reason is FinishReason.LENGTH for [c, _] in together)


def test_beams_come_with_their_scores(tiny: Engine) -> None:
    params = SamplingParams(max_new_tokens=6, num_beams=3, num_return_sequences=3, logprobs=True)
    [completions] = generate(tiny, ["Once upon a time"], params)
    scores = [completion.score for completion in completions]
    assert None not in scores
    assert scores == sorted(scores, key=lambda score: -(score or 0))


def test_a_prompt_that_can_never_run_is_refused_and_leaves_the_engine_idle(tiny: Engine) -> None:
    with pytest.raises(ValueError, match="must be at most 2048, the model's context"):
        generate(tiny, ["fine", "too long"], SamplingParams(max_new_tokens=100_000))
    assert not tiny.has_work


def test_a_failure_is_raised_and_leaves_the_engine_idle() -> None:
    engine = engine_on_fake_runner(
        FakeRunner(num_blocks=8, block_size=4, crash_token=1, nan_token=NAN)
    )
    with pytest.raises(GenerationFailed, match="nan or inf"):
        generate(engine, ["fine", chr(NAN) * 3], SamplingParams(max_new_tokens=4))
    assert not engine.has_work


def test_generate_refuses_an_engine_with_other_requests(tiny: Engine) -> None:
    tiny.add(Request(request_id="else", prompt_token_ids=[5], params=SamplingParams()))
    with pytest.raises(RuntimeError, match="must be idle"):
        generate(tiny, ["hello"])
    tiny.abort("else")


def test_a_single_string_is_refused_as_prompts(tiny: Engine) -> None:
    with pytest.raises(TypeError, match="not one string"):
        generate(tiny, "abc")
    assert not tiny.has_work


def test_steps_use_the_engines_threads_and_the_callers_number_is_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    seen = []
    engine = engine_on_fake_runner()
    engine.num_torch_threads = before + 1
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (seen.append(torch.get_num_threads()), step())[1])
    generate(engine, ["abc"], SamplingParams(max_new_tokens=2))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_the_examples_of_the_page_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(examples) == 2
    assert len(examples[0].splitlines()) <= 10
    namespace: dict[str, object] = {}
    for example in examples:
        exec(example, namespace)
    printed = capsys.readouterr().out
    assert all(start in printed for start in ("Once upon a time", "The falcon", "One day a girl"))
