"""Settings of `falconer serve`, the whole service on one machine."""

from pathlib import Path

from pydantic import Field

from shared.access.settings import AccessSettings


class ServeSettings(AccessSettings):
    host: str = Field("127.0.0.1", description="Address of the api.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the api.")
    model: str = Field(
        "tiny", description="Folder, hub id, or `tiny` (bundled); several with commas."
    )
    workers: int = Field(1, ge=1, le=64, description="Worker processes of each model.")
    redis_url: str | None = Field(None, description="Redis instead of the embedded one.")
    state_dir: Path = Field(Path(".falconer"), description="Files of the embedded Redis, and logs.")
    start_timeout_s: float = Field(1800.0, gt=0, description="Limit for the start, in seconds.")
