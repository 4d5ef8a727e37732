"""From settings to a loaded engine with its model card; every failure is one line."""

from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import SettingsError
from shared.protocol import ModelCard
from worker.engine import Engine, EngineConfig
from worker.model.checkpoint import resolve_checkpoint
from worker.model.errors import CheckpointError
from worker.model.tiny import bundled_checkpoint
from worker.model_card import describe_model
from worker.settings import WorkerSettings

BUNDLED = "tiny"
SMALL_MODEL = 20_000_000  # parameters; below, threads wait for each other longer than they work


@dataclass(frozen=True, slots=True)
class LoadedModel:
    engine: Engine
    card: ModelCard
    tokenizer_json: bytes
    device: str
    num_threads: int


def load_model(settings: WorkerSettings) -> LoadedModel:
    """Load what the settings name. Raises SettingsError when it cannot be served.

    Loading takes one thread: a pool of threads belongs to the thread that first needed it, and a
    second pool makes OpenMP put both to sleep between the parts of a step, which then takes twice
    as long. `num_threads` is for the thread that will run the engine.
    """
    default_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        checkpoint = find_checkpoint(settings.model)
        engine = Engine.from_pretrained(
            str(checkpoint),
            dtype=_dtype(settings, device),
            device=device,
            config=_engine_config(settings),
        )
        card, tokenizer_json = describe_model(settings.model, checkpoint, engine)
    except (CheckpointError, ValueError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"cannot serve model {settings.model!r} on {device}: {reason}"
        ) from error
    num_threads = settings.threads or choose_num_threads(engine, default_threads)
    return LoadedModel(engine, card, tokenizer_json, device, num_threads)


def choose_num_threads(engine: Engine, default: int) -> int:
    return 1 if engine.model_config.num_parameters < SMALL_MODEL else default


def find_checkpoint(model: str) -> Path:
    """The folder of a checkpoint. Raises CheckpointError."""
    return bundled_checkpoint() if model == BUNDLED else resolve_checkpoint(model)


def _dtype(settings: WorkerSettings, device: str) -> str | None:
    if settings.dtype != "auto":
        return settings.dtype
    return "float32" if device == "cpu" else None


def _engine_config(settings: WorkerSettings) -> EngineConfig:
    kv_tokens = settings.kv_tokens
    return EngineConfig(
        max_rows=settings.max_rows,
        num_blocks=None if kv_tokens is None else -(-kv_tokens // settings.block_size),
        block_size=settings.block_size,
        max_step_tokens=settings.max_step_tokens,
    )
