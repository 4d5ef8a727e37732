"""Settings of `falconer serve`, the whole service on one machine."""

from pathlib import Path

from pydantic import Field

from shared.process.settings import ProcessSettings


class ServeSettings(ProcessSettings):
    host: str = Field("127.0.0.1", description="Address the api listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the api listens on.")
    model: str = Field("tiny", description="Checkpoint: a folder, a hub id, or `tiny` (bundled).")
    workers: int = Field(1, ge=1, le=64, description="Worker processes to run.")
    redis_url: str | None = Field(None, description="A Redis to use instead of an embedded one.")
    state_dir: Path = Field(
        Path(".falconer"), description="Where the embedded Redis and the logs keep their files."
    )
    start_timeout_s: float = Field(
        1800.0, gt=0, description="Give up if the service is not ready by then, in seconds."
    )
