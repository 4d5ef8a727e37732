"""Load the engine and the model card that the settings name; report failures in one line."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import SettingsError
from shared.protocol import ModelCard
from worker.engine import (
    AdapterMode,
    AttentionKernels,
    CudaGraphs,
    DecoderLayers,
    Engine,
    EngineConfig,
    Executor,
    Quantization,
)
from worker.engine.loading.adapters import look_for_adapters
from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.checkpoint.shards import ReadProgress
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.errors import CheckpointError
from worker.model_card import describe_merged, describe_model, read_prompt_files
from worker.settings import WorkerSettings

BUNDLED = "tiny"
# Tokens that a step computes in hardly more time than one. The GPU's figure is arithmetic, not
# measured: with fewer tokens, reading the weights takes longer than computing.
MAX_DRAFTING_TOKENS = {"cpu": 16, "cuda": 64}

NEW_OBJECTS_PER_COLLECTION = 20_000  # a few MB; 700 by default


@dataclass(frozen=True, slots=True)
class LoadedModel:
    engine: Engine
    card: ModelCard
    tokenizer_json: bytes
    device: str


def load_model(settings: WorkerSettings, progress: ReadProgress | None = None) -> LoadedModel:
    """Load the model that the settings name. Raises SettingsError if it cannot be served.

    `progress` counts the weights that are read.

    Loading uses one thread. OpenMP keeps a pool per calling thread, and a second pool makes both
    sleep between the parts of a step, which doubles its time. The engine's thread sets
    `engine.num_torch_threads` for itself.
    """
    _check_adapters(settings)
    torch.set_num_threads(1)
    device = choose_device(settings.device)
    try:
        checkpoint = find_checkpoint(settings.model)
        prompt_files = read_prompt_files(checkpoint, settings.chat_template)
        # List the folder before loading: adapters added meanwhile are not in the weights.
        is_merged = AdapterMode(settings.adapter_mode) is AdapterMode.MERGE
        folders = look_for_adapters(settings.adapters_dir) if is_merged else []
        merged = describe_merged(folders)
        engine = _load_engine(settings, checkpoint, device, progress or ReadProgress())
        card, tokenizer_json = describe_model(settings.model, prompt_files, engine, merged)
    except (CheckpointError, ImportError, ValueError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"cannot serve model {settings.model!r} on {device}: {reason}"
        ) from error
    return LoadedModel(engine, card, tokenizer_json, device)


def _load_engine(
    settings: WorkerSettings, checkpoint: Path, device: str, progress: ReadProgress
) -> Engine:
    return Engine.from_pretrained(
        str(checkpoint),
        dtype=settings.dtype,
        kv_dtype=settings.kv_dtype,
        device=device,
        executor=Executor(settings.executor),
        attention=AttentionKernels(settings.attention),
        cuda_graphs=CudaGraphs(settings.cuda_graphs),
        layers=DecoderLayers(settings.layers),
        quantization=settings.quantization and Quantization(settings.quantization),
        num_threads=settings.threads,
        tensor_parallel=settings.tensor_parallel,
        device_map=settings.device_map,
        adapters_dir=settings.adapters_dir,
        adapter_mode=AdapterMode(settings.adapter_mode),
        memory=settings.memory,
        progress=progress,
        config=_engine_config(settings, device),
    )


def settle_garbage_collector() -> None:
    """Keep the garbage collector from delaying steps. Call it once the model is loaded.

    Loaded objects live as long as the process: they are not scanned again. A step of 256 rows makes
    more objects than Python's threshold, so nearly each step would start a collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_PER_COLLECTION)


def _check_adapters(settings: WorkerSettings) -> None:
    """Raise SettingsError for settings of adapters that exclude each other."""
    has_runtime = settings.runtime_adapters_dir is not None
    if settings.adapter_mode == "serve" and settings.adapters_dir is None and not has_runtime:
        raise SettingsError(
            "with --adapter-mode serve, --adapters-dir or --runtime-adapters-dir must be set"
        )
    if has_runtime and settings.adapter_mode != "serve":
        raise SettingsError("with --runtime-adapters-dir, --adapter-mode must be serve")
    if has_runtime and settings.tensor_parallel > 1:
        raise SettingsError("with --runtime-adapters-dir, --tensor-parallel must be 1")


def choose_device(wanted: str) -> str:
    """Resolve `auto` to a device of this machine; return other names unchanged."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_checkpoint(model: str) -> Path:
    """Return the folder of a checkpoint. Raises CheckpointError."""
    return bundled_checkpoint() if model == BUNDLED else resolve_checkpoint(model)


def _engine_config(settings: WorkerSettings, device: str) -> EngineConfig:
    kv_tokens = settings.kv_tokens
    kind = device.partition(":")[0]
    return EngineConfig.for_machine(
        device,
        max_rows=settings.max_rows,
        max_step_tokens=settings.max_step_tokens,
        max_chunk_tokens=settings.max_chunk_tokens,
        batch_share=settings.batch_share,
        num_blocks=None if kv_tokens is None else -(-kv_tokens // settings.block_size),
        block_size=settings.block_size,
        prompt_lookup_num_tokens=settings.prompt_lookup,
        max_drafting_tokens=MAX_DRAFTING_TOKENS[kind],
    )
