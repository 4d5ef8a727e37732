"""The engine runs requests together, step by step: synchronous, owned by one thread."""

import logging
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from itertools import count
from typing import Unpack

import torch
from tokenizers import Tokenizer

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.output import BeamState
from worker.engine.config import EngineConfig
from worker.engine.execution.static_decoding import StaticDecoder
from worker.engine.execution.torch_runner import Runner
from worker.engine.fault_isolation import message_of, probe_model, release_tensors
from worker.engine.grammar.grammars import Grammars
from worker.engine.loading import load_network
from worker.engine.loading.options import LoadArguments, LoadOptions
from worker.engine.loading.report import LoadReport
from worker.engine.outputs import FailureCause, Output, RequestFailed
from worker.engine.request import Request, check_request
from worker.engine.request_state import GroupState, create_groups
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.step_report import Phase, StepReport
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.sequence_text import SequenceText
from worker.engine.token_selection import GroupSelection, Sampled, select_tokens, to_outputs
from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.config import ModelConfig
from worker.model.tokenizer.tokenizer_files import load_tokenizer

logger = logging.getLogger(__name__)


class Engine:
    """Continuous batching of one model.

    `add` and `abort` act with the next `step`, which alone returns results. A row is a sequence.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        config: EngineConfig,
        adapters: Collection[str] = (),
        decoder: StaticDecoder | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.model_config = model_config
        self.config = config
        self.adapters = adapters
        self.runner = runner
        self.decoder = decoder
        self.grammars = Grammars(tokenizer, model_config.vocab_size)
        self.scheduler = Scheduler(config, BlockManager(runner.num_blocks, config.block_size))
        self.last_step = StepReport()
        self.load_report = LoadReport()
        self.process_failure: Future[str] = Future()  # the reason, once a process is lost
        self.num_torch_threads = torch.get_num_threads()  # of the thread that runs the steps
        self._token_bytes = TokenBytes(tokenizer)
        self._arrivals = count()
        self._states: dict[SequenceGroup, GroupState] = {}  # of unfinished groups
        self._groups: dict[str, list[SequenceGroup]] = {}  # unfinished, by request

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        config: EngineConfig | None = None,
        **arguments: Unpack[LoadArguments],
    ) -> "Engine":
        """Load a model from a local folder or hub id; LoadOptions documents the other arguments.

        Raises CheckpointError; ValueError if the tokenizer, the device, the executor or the memory
        does not allow it; RuntimeError if another process failed to load its part.
        """
        config = config or EngineConfig.for_machine(arguments.get("device", "cpu"))
        options = LoadOptions(source, config=config, **arguments)
        loaded = load_network(options)
        engine = cls(
            runner=loaded.runner,
            tokenizer=load_tokenizer(resolve_checkpoint(options.source)),
            model_config=loaded.model_config,
            config=loaded.config,
            adapters=loaded.adapters,
            decoder=loaded.decoder,
        )
        engine.num_torch_threads = loaded.num_torch_threads
        engine.load_report = loaded.report
        engine.process_failure = loaded.process_failure
        return engine

    @property
    def has_work(self) -> bool:
        return bool(self._groups)

    @property
    def num_running(self) -> int:
        return self.scheduler.num_running_rows

    @property
    def num_waiting(self) -> int:
        return self.scheduler.num_waiting_rows

    @property
    def num_preemptions(self) -> int:
        """Return how often a running group lost its blocks and had to wait again."""
        return self.scheduler.num_preemptions

    @property
    def num_prefix_hit_tokens(self) -> int:
        """Return the number of tokens that the prefix cache saved from being computed."""
        return self.scheduler.block_manager.num_prefix_hit_tokens

    @property
    def total_kv_tokens(self) -> int:
        return self.scheduler.block_manager.num_blocks * self.config.block_size

    @property
    def used_kv_tokens(self) -> int:
        """Return the number of tokens in the blocks that sequences hold."""
        return self.scheduler.block_manager.num_held_blocks * self.config.block_size

    def add(self, request: Request) -> None:
        """Queue a request. Raises ValueError, naming field and limit, if it can never run.

        Sequences that `request.generated` completes yield no output; a beam search starts over.
        """
        if request.request_id in self._groups:
            raise ValueError(f"request id {request.request_id} is in use")
        check_request(request, self.model_config, self.adapters)
        new = create_groups(request, self._arrivals, self._token_bytes, self.grammars, self.config)
        if not new:
            raise ValueError(f"request {request.request_id} is complete: nothing is left to do")
        self.scheduler.check_fits(next(iter(new)))
        self._states |= new
        self._groups[request.request_id] = list(new)
        for group in new:
            self.scheduler.add_group(group)

    def abort(self, request_id: str) -> None:
        """Remove a request and free its blocks. An unknown id is no error."""
        for group in self._groups.pop(request_id, ()):
            del self._states[group]
            self.scheduler.finish_group(group)

    def step(self) -> list[Output]:
        """Run one planned batch and return its outputs.

        After a failure, the batch runs again in halves, and the requests that cause it end. Raises
        EngineBroken if no request causes it: the engine and its requests are lost, with the
        outputs of this step.
        """
        self.last_step = StepReport()
        with self.last_step.timed(Phase.SCHEDULE):
            plan = self.scheduler.schedule()
        self.last_step.num_rows, self.last_step.num_tokens = len(plan.chunks), plan.num_tokens
        return self._run(plan) if plan else []

    def _run(self, plan: StepPlan) -> list[Output]:
        try:
            selections = self._compute(plan)
        except Exception as error:  # out of memory, a broken row: find the request
            release_tensors(error)
            return self._run_in_halves(plan, error)
        with self.last_step.timed(Phase.COMMIT):
            self.scheduler.record_computed(plan)
            return self._commit(plan, selections)

    def _compute(self, plan: StepPlan) -> list[GroupSelection]:
        with self.last_step.timed(Phase.FORWARD), self.grammars.masking(plan.constrained_outputs):
            step = None if self.decoder is None else self.decoder.decode(plan)
            logits = step.logits if step else self.runner.forward(plan)
        with self.last_step.timed(Phase.SAMPLE):
            return select_tokens(logits, plan, self._states, step)

    def _run_in_halves(self, plan: StepPlan, error: Exception) -> list[Output]:
        """Repeat a failed step in halves, to find the group that fails alone and without drafts."""
        if len(plan.groups) > 1:
            return [output for half in plan.halves() for output in self._run_if_alive(half)]
        if plan.has_drafts:
            return self._run(plan.without_drafts())
        [request_id] = [group.request_id for group in plan.groups]
        logger.error("request %s failed in a step", request_id, exc_info=error)
        outputs = self._fail(request_id, message_of(error), FailureCause.MODEL)
        probe_model(self._compute, self.scheduler.block_manager)
        return outputs

    def _run_if_alive(self, plan: StepPlan) -> list[Output]:
        """Run a plan without the groups of requests that have failed since."""
        alive = plan.only([group for group in plan.groups if group in self._states])
        return self._run(alive) if alive else []

    def _commit(self, plan: StepPlan, selections: Iterable[GroupSelection]) -> list[Output]:
        """Continue each group as selected; return its tokens. Ends finished and failed groups."""
        outputs: list[Output] = []
        last_chunks = {chunk.group: chunk for chunk in plan.sampled_chunks}
        for (group, chunk), selection in zip(last_chunks.items(), selections, strict=True):
            state = self._states.get(group)
            if state is None:
                continue  # another sequence of the request failed in this step
            if isinstance(selection, SamplingFailure):
                outputs += self._fail(group.request_id, selection.reason, selection.cause)
            elif isinstance(state, BeamState):
                assert isinstance(selection, list)
                outputs += self._advance(group, state, selection)
            elif isinstance(selection, SampledToken):
                outputs.append(self._append(chunk, state, selection))
            elif isinstance(selection, tuple):
                outputs += self._extend(chunk, state, selection)
        return outputs

    def _append(self, chunk: Chunk, text: SequenceText, token: SampledToken) -> Output:
        chunk.sequence.append(token.token_id)
        output = text.push(token.token_id, token.logprob, token.top_logprobs)
        if output.finish_reason is not None:
            self._finish(chunk.group)
        return output

    def _extend(
        self, chunk: Chunk, text: SequenceText, sampled: tuple[Sampled, ...]
    ) -> Iterable[Output]:
        sequence, last = chunk.sequence, sampled[-1]
        outputs = to_outputs(chunk, sampled, text, self.last_step)
        self.scheduler.append_tokens(sequence, [output.token_id for output in outputs])
        if text.finish_reason is not None:
            self._finish(chunk.group)
        elif isinstance(last, SamplingFailure):
            return [*outputs, *self._fail(sequence.request_id, last.reason, last.cause)]
        return outputs

    def _advance(
        self, group: SequenceGroup, search: BeamState, proposals: list[Candidates]
    ) -> Iterable[Output]:
        successors = search.advance(proposals)
        if successors:
            children = [(group.sequences[s.parent], s.token_id) for s in successors]
            self.scheduler.replace_sequences(group, children)
            return []
        results = search.results()
        if isinstance(results, SamplingFailure):
            return self._fail(group.request_id, results.reason, results.cause)
        for sequence in group.sequences:
            sequence.mark_cached_valid()  # also for a search that ends with its first step
        self._finish(group)
        return results

    def _finish(self, group: SequenceGroup) -> None:
        self.scheduler.finish_group(group)
        del self._states[group]
        unfinished = self._groups[group.request_id]
        unfinished.remove(group)
        if not unfinished:
            del self._groups[group.request_id]

    def _fail(self, request_id: str, message: str, cause: FailureCause) -> list[Output]:
        self.abort(request_id)
        return [RequestFailed(request_id, message, cause)]
