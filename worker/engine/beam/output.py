"""One request's beam search in the engine: what can go wrong with it, and the text of its results.

Knows nothing of KV cache or batch, nor of the rules of a search.
"""

import math

import torch

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.diverse import DiverseBeamSearch
from worker.engine.beam.hypothesis import Beam, Hypothesis, Step, Successor
from worker.engine.beam.search import BeamSearch, Search
from worker.engine.outputs import Blame, FinishReason, TokenOutput
from worker.engine.request import Request
from worker.engine.sampling.sampled_token import NoChoice
from worker.engine.sampling.sampler import INVALID_LOGITS, NOTHING_TO_SAMPLE
from worker.engine.sequence import Sequence
from worker.engine.text.detokenizer import Detokenizer, StopStrings, TokenBytes

TOO_FEW_SEQUENCES = "fewer sequences than asked for can be made: the parameters ban every token"


class BeamStream:
    """Searches, and tells its results all at once: until the end any beam may still lose."""

    def __init__(self, request: Request, token_bytes: TokenBytes) -> None:
        self._request = request
        self._token_bytes = token_bytes
        params = request.params
        stop_strings = StopStrings(token_bytes, params.stop_strings, request.prompt_token_ids)
        kind = DiverseBeamSearch if params.num_beam_groups > 1 else BeamSearch
        self._search: Search = kind(params, Beam((), stop_strings))

    def propose(
        self, logits: torch.Tensor, sequences: list[Sequence]
    ) -> list[Candidates] | NoChoice:
        """What may follow the group's `sequences`, by their float32 `logits` [n, vocab].

        Changes nothing: a step that failed may be repeated.
        """
        if not (self._request.params.remove_invalid_values or logits.amax() < torch.inf):
            return NoChoice(INVALID_LOGITS, Blame.MODEL)
        proposals = self._search.propose(logits, sequences)
        return proposals or NoChoice(NOTHING_TO_SAMPLE, Blame.PARAMETERS)

    def advance(self, proposals: list[Candidates]) -> list[Successor]:
        """The rows of the next step; none when the search is over."""
        return self._search.advance(proposals)

    def results(self) -> list[TokenOutput] | NoChoice:
        """Every token of every sequence, the best sequence first, once the search is over."""
        hypotheses = self._search.hypotheses()
        if not all(hypothesis.beam.steps for hypothesis in hypotheses):
            return NoChoice(TOO_FEW_SEQUENCES, Blame.PARAMETERS)
        return [
            output
            for index, hypothesis in enumerate(hypotheses)
            for output in self._tell(index, hypothesis)
        ]

    def _tell(self, index: int, hypothesis: Hypothesis) -> list[TokenOutput]:
        detokenizer = Detokenizer(self._token_bytes, self._request.prompt_token_ids)
        outputs = [
            self._output(index, step, detokenizer.push(step.token_id))
            for step in hypothesis.beam.steps
        ]
        last = outputs[-1]
        last.text += detokenizer.flush()
        # A beam that neither ended nor grew to its full length is told where none is better.
        last.finish_reason = hypothesis.beam.finish_reason or FinishReason.LENGTH
        last.score = _finite(hypothesis.score)
        return outputs

    def _output(self, index: int, step: Step, text: str) -> TokenOutput:
        return TokenOutput(
            request_id=self._request.request_id,
            sequence=index,
            token_id=step.token_id,
            text=text,
            logprob=_finite(step.logprob) if self._request.params.logprobs else None,
            top_logprobs=step.top_logprobs,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
