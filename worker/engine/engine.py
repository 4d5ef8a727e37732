"""The engine: requests in, a token or more per running sequence and step out.

Plain synchronous Python, owned by one thread. Ties scheduler, runner, sampler and text together;
knows nothing of queues or HTTP.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from itertools import count
from typing import Literal

import torch
from tokenizers import Tokenizer

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.output import BeamStream
from worker.engine.config import EngineConfig
from worker.engine.execution.torch_runner import Runner
from worker.engine.fault_isolation import let_go_of_tensors, probe_model
from worker.engine.loading.backend import Executor
from worker.engine.loading.loader import load_network
from worker.engine.loading.lora import AdapterMode
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.report import LoadReport
from worker.engine.outputs import Blame, Output, RequestFailed
from worker.engine.request import Request, check_request
from worker.engine.request_state import Stream, begin
from worker.engine.sampling.sampled_token import NoChoice
from worker.engine.sampling.token_selection import GroupChoice, choose
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.room import check_fits
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.step_plan import StepPlan
from worker.engine.sequence_group import SequenceGroup
from worker.engine.speculation.verification import NextTokens
from worker.engine.step_report import Phase, StepReport
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.text_stream import TextStream
from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.layers.quantization import Quantization
from worker.model.tokenizer.tokenizer_files import load_tokenizer

logger = logging.getLogger(__name__)


class Engine:
    """Continuous batching of one model.

    `add` and `abort` take effect with the next `step`; results come from `step` alone. Counts of
    rows are counts of sequences.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        config: EngineConfig,
        adapters: tuple[str, ...] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.model_config = model_config
        self.config = config
        self.adapters = adapters
        self.last_step = StepReport()
        self.load_report = LoadReport()
        self.lost: Future[str] = Future()  # the reason, once another process that it needs is lost
        self.num_torch_threads = torch.get_num_threads()  # of the thread that runs the steps
        self._runner = runner
        self._token_bytes = TokenBytes(tokenizer)
        self._block_manager = BlockManager(runner.num_blocks, config.block_size)
        self._scheduler = Scheduler(config, self._block_manager)
        self._arrivals = count()
        # Unfinished groups by request, each with its text or the search for one.
        self._streams: dict[str, dict[SequenceGroup, Stream]] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        dtype: str | None = None,
        device: str = "cpu",
        executor: Executor = Executor.AUTO,
        quantization: Quantization | None = None,
        num_threads: int | None = None,
        tensor_parallel: int = 1,
        device_map: Literal["auto"] | DeviceMap | None = None,
        adapters_dir: str | None = None,
        adapter_mode: AdapterMode = AdapterMode.MERGE,
        memory: int | None = None,
        config: EngineConfig | None = None,
    ) -> "Engine":
        """Load a local folder or hub id; `dtype` None takes the checkpoint's, "auto" what fits.

        What does not fit in the host's memory, or in `memory` bytes of it, is refused before a
        weight is read.
        `num_threads` are those of a step on the CPU; None takes all, or one for a small model.
        `tensor_parallel` above 1 splits the network over so many processes, each on a device of
        its own; `device_map` spreads its layers over devices of this process, "auto" over all GPUs.
        Every LoRA adapter in the folder `adapters_dir` is merged into the weights or, by
        `adapter_mode`, served to the requests that name it. Raises CheckpointError, or ValueError
        when its tokenizer, the device, the executor or the memory will not do; RuntimeError when
        another process failed to load its part.
        """
        config = config or EngineConfig()
        options = LoadOptions(
            source,
            config=config,
            dtype=dtype,
            device=device,
            executor=executor,
            quantization=quantization,
            num_threads=num_threads,
            tensor_parallel=tensor_parallel,
            device_map=device_map,
            adapters_dir=adapters_dir,
            adapter_mode=adapter_mode,
            memory=memory,
        )
        loaded = load_network(options)
        engine = cls(
            runner=loaded.runner,
            tokenizer=load_tokenizer(resolve_checkpoint(source)),
            model_config=loaded.model_config,
            config=config,
            adapters=loaded.adapters,
        )
        engine.num_torch_threads = loaded.num_torch_threads
        engine.load_report = loaded.report
        engine.lost = loaded.lost
        return engine

    @property
    def has_work(self) -> bool:
        return bool(self._streams)

    @property
    def num_running(self) -> int:
        return self._scheduler.num_running_rows

    @property
    def num_waiting(self) -> int:
        return self._scheduler.num_waiting_rows

    @property
    def num_preemptions(self) -> int:
        """How often a running group had to give its blocks back and begin again."""
        return self._scheduler.num_preemptions

    @property
    def num_prefix_hit_tokens(self) -> int:
        """Tokens that were found in the prefix cache instead of being computed."""
        return self._block_manager.num_prefix_hit_tokens

    @property
    def total_kv_tokens(self) -> int:
        return self._block_manager.num_blocks * self.config.block_size

    @property
    def used_kv_tokens(self) -> int:
        """Tokens in blocks that are held right now."""
        return self.total_kv_tokens - self._block_manager.num_free_blocks * self.config.block_size

    def add(self, request: Request) -> None:
        """Put a request in line. Raises ValueError, naming field and limit, if it can never run.

        Sequences that `request.generated` already ends yield no output; a beam search begins anew.
        """
        if request.request_id in self._streams:
            raise ValueError(f"request id {request.request_id} is in use")
        check_request(request, self.model_config, self.adapters)
        streams = begin(
            request, self._arrivals, self._token_bytes, self.config.prompt_lookup_num_tokens
        )
        if not streams:
            raise ValueError(f"request {request.request_id} is complete: nothing is left to do")
        check_fits(next(iter(streams)), self.config, num_blocks=self._block_manager.num_blocks)
        self._streams[request.request_id] = streams
        for group in streams:
            self._scheduler.add(group)

    def abort(self, request_id: str) -> None:
        """Forget a request; its blocks are free on return. An unknown id is no error."""
        for group in self._streams.pop(request_id, {}):
            self._scheduler.finish(group)

    def step(self) -> list[Output]:
        """Run one forward pass for whoever is next; a failure ends the requests it concerns.

        Raises EngineBroken when the failure is nobody's: the engine is lost, with every request
        that is left and with what part of the step had yielded.
        """
        self.last_step = StepReport()
        with self.last_step.timed(Phase.SCHEDULE):
            plan = self._scheduler.schedule()
        self.last_step.num_rows, self.last_step.num_tokens = len(plan.chunks), plan.num_tokens
        return self._run(plan) if plan else []

    def _run(self, plan: StepPlan) -> list[Output]:
        try:
            choices = self._compute(plan)
        except Exception as error:  # out of memory, a broken row: find whom to blame
            let_go_of_tensors(error)
            return self._run_in_halves(plan, error)
        with self.last_step.timed(Phase.COMMIT):
            self._scheduler.update(plan)
            return self._commit(plan.sampled_groups, choices)

    def _compute(self, plan: StepPlan) -> list[GroupChoice]:
        with self.last_step.timed(Phase.FORWARD):
            logits = self._runner.forward(plan)
        with self.last_step.timed(Phase.SAMPLE):
            streams = [self._stream_of(group) for group in plan.sampled_groups]
            return choose(logits, plan, streams)

    def _run_in_halves(self, plan: StepPlan, error: Exception) -> list[Output]:
        """Repeat a failed step in halves, down to the group that fails alone and without drafts."""
        if len(plan.groups) > 1:
            return [output for half in plan.halves() for output in self._run_if_alive(half)]
        if plan.has_drafts:
            return self._run(plan.without_drafts())
        [group] = plan.groups
        request_id = group.request_id
        logger.error("request %s failed in a step", request_id, exc_info=error)
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # CUDA's run to pages
        message = f"the model failed on this request: {reason}"
        outputs = self._fail(request_id, message, Blame.MODEL)
        probe_model(self._compute, self._block_manager)
        return outputs

    def _run_if_alive(self, plan: StepPlan) -> list[Output]:
        """Run what is left of a plan when a failed request took its other sequences along."""
        alive = plan.only([group for group in plan.groups if group.request_id in self._streams])
        return self._run(alive) if alive else []

    def _commit(self, groups: list[SequenceGroup], choices: Iterable[GroupChoice]) -> list[Output]:
        """Let each group go on as chosen and report its tokens; end what is finished or failed."""
        outputs: list[Output] = []
        for group, choice in zip(groups, choices, strict=True):
            match self._stream_of(group), choice:
                case None, _:
                    continue  # another sequence of the request failed in this very step
                case _, NoChoice():
                    outputs += self._fail(group.request_id, choice.reason, choice.blame)
                case TextStream() as stream, NextTokens():
                    outputs += self._extend(group, stream, choice)
                case BeamStream() as search, list():
                    outputs += self._advance(group, search, choice)
        return outputs

    def _extend(self, group: SequenceGroup, stream: TextStream, tokens: NextTokens) -> list[Output]:
        [sequence] = group.sequences
        told = tokens.told(sequence, stream)
        self._scheduler.extend(sequence, [output.token_id for output in told])
        if sequence.lookup and tokens.num_drafts:
            sequence.lookup.note(tokens.num_accepted, sequence.num_tokens)
            self.last_step.num_drafts += tokens.num_drafts
            self.last_step.num_accepted_drafts += tokens.num_accepted
        if stream.finish_reason is not None:
            self._finish(group)
        elif problem := tokens.problem:
            return [*told, *self._fail(group.request_id, problem.reason, problem.blame)]
        return [*told]

    def _advance(
        self, group: SequenceGroup, search: BeamStream, proposals: list[Candidates]
    ) -> Iterable[Output]:
        successors = search.advance(proposals)
        if successors:
            parents = group.sequences
            children = [(parents[s.parent], s.token_id) for s in successors]
            self._scheduler.replace(group, children)
            return []
        results = search.results()
        if isinstance(results, NoChoice):
            return self._fail(group.request_id, results.reason, results.blame)
        for sequence in group.sequences:
            sequence.vouch()  # also for a search that ends with its first step
        self._finish(group)
        return results

    def _stream_of(self, group: SequenceGroup) -> Stream | None:
        """None once its request is over, by another group's failure."""
        return self._streams.get(group.request_id, {}).get(group)

    def _finish(self, group: SequenceGroup) -> None:
        self._scheduler.finish(group)
        streams = self._streams[group.request_id]
        del streams[group]
        if not streams:
            del self._streams[group.request_id]

    def _fail(self, request_id: str, message: str, blame: Blame) -> list[Output]:
        self.abort(request_id)
        return [RequestFailed(request_id, message, blame)]
