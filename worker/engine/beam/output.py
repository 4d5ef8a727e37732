"""The beam search of one request in the engine: its failures, and the text of its results."""

import math

import torch

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.diverse import DiverseBeamSearch
from worker.engine.beam.hypothesis import Beam, BeamToken, Hypothesis, Successor
from worker.engine.beam.search import BeamSearch, Search
from worker.engine.outputs import FailureCause, FinishReason, TokenOutput
from worker.engine.request import Request
from worker.engine.sampling.logits_processors.base import SequenceViews
from worker.engine.sampling.sampled_token import NOTHING_TO_SAMPLE, SamplingFailure
from worker.engine.sampling.sampler import INVALID_LOGITS
from worker.engine.text.detokenizer import StopStrings, TokenBytes
from worker.engine.text.visible_text import VisibleText

TOO_FEW_SEQUENCES = "fewer sequences than asked for can be made: the parameters ban every token"


class BeamState:
    """The beam search of one request; it returns all results at its end, when no beam may lose."""

    def __init__(self, request: Request, token_bytes: TokenBytes) -> None:
        self._request = request
        self._token_bytes = token_bytes
        params = request.params
        context = request.prompt_token_ids if params.include_stop else ()
        stop_strings = StopStrings(token_bytes, params.stop_strings, context)
        kind = DiverseBeamSearch if params.num_beam_groups > 1 else BeamSearch
        self._search: Search = kind(params, Beam((), stop_strings))

    def propose(
        self, logits: torch.Tensor, sequences: SequenceViews
    ) -> list[Candidates] | SamplingFailure:
        """Propose continuations of the group's `sequences`, by float32 `logits` [n, vocab].

        Changes no state: a step that failed may be repeated.
        """
        if not (self._request.params.remove_invalid_values or logits.amax() < torch.inf):
            return SamplingFailure(INVALID_LOGITS, FailureCause.MODEL)
        proposals = self._search.propose(logits, sequences)
        failures = [
            s.constraint.failure(s.generated_token_ids) if s.constraint else None for s in sequences
        ]
        if failures[0] is not None and all(failures):
            return SamplingFailure(failures[0], FailureCause.GRAMMAR)
        return proposals or SamplingFailure(NOTHING_TO_SAMPLE, FailureCause.PARAMETERS)

    def advance(self, proposals: list[Candidates]) -> list[Successor]:
        """Return the rows of the next step; none when the search has ended."""
        return self._search.advance(proposals)

    def results(self) -> list[TokenOutput] | SamplingFailure:
        """Return every token of every sequence after the end, the best sequence first."""
        hypotheses = self._search.hypotheses()
        if not all(hypothesis.beam.tokens for hypothesis in hypotheses):
            return SamplingFailure(TOO_FEW_SEQUENCES, FailureCause.PARAMETERS)
        return [
            output
            for index, hypothesis in enumerate(hypotheses)
            for output in self._outputs(index, hypothesis)
        ]

    def _outputs(self, index: int, hypothesis: Hypothesis) -> list[TokenOutput]:
        text = VisibleText(self._token_bytes, self._request.params, self._request.prompt_token_ids)
        outputs = [
            self._output(index, token, text.push(token.token_id))
            for token in hypothesis.beam.tokens
        ]
        last = outputs[-1]
        last.text += text.flush()
        # A beam that neither ended nor reached its full length is returned if none is better.
        last.finish_reason = hypothesis.beam.finish_reason or FinishReason.LENGTH
        last.score = _finite(hypothesis.score)
        return outputs

    def _output(self, index: int, token: BeamToken, text: str) -> TokenOutput:
        return TokenOutput(
            request_id=self._request.request_id,
            sequence=index,
            token_id=token.token_id,
            text=text,
            logprob=_finite(token.logprob) if self._request.params.logprobs else None,
            top_logprobs=token.top_logprobs,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
