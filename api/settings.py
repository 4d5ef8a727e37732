"""Settings of the api process; every field is a flag and a FALCONER_ variable."""

import re

from pydantic import Field, field_validator

from shared.keys import JOB_TTL_S
from shared.logs import LogFormat, LogLevel
from shared.settings import ProcessSettings

# As browsers send it: scheme, host and port in lower case, no path.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,]+")


class ApiSettings(ProcessSettings):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis with the queue; see docs/redis.md."
    )
    queue: str = Field(
        "falconer:queue", min_length=1, max_length=200, description="Name of the queue."
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1, le=2**30, description="Larger request bodies get 413."
    )
    max_queued: int = Field(
        10_000, ge=1, description="With this many jobs waiting, new ones get 429."
    )
    max_queued_tokens: int = Field(
        20_000_000, ge=1, le=2**53, description="Most KV cache, in tokens, that jobs may wait for."
    )
    sync_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="A call that waits this long gets 504; its job goes on."
    )
    max_ttl_s: int = Field(
        JOB_TTL_S, ge=1, le=30 * 86_400, description="Longest time a result may be kept."
    )
    grace_s: float = Field(
        10.0, ge=0, le=3600, description="On a stop, open calls get this long to end by themselves."
    )
    cors_origins: str | None = Field(
        None, description="Web pages of these origins may call the API: a list with commas, or *."
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console or json.")

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str | None) -> str | None:
        """Return the origins in lower case, without spaces."""
        origins = [origin.strip().lower() for origin in (value or "").split(",") if origin.strip()]
        for origin in origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} must be an origin such as https://app.example.com, without a path"
                )
        return ",".join(origins) or None
