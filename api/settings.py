"""Settings of the api process: each field is a flag and a FALCONER_ variable."""

import re
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network

from pydantic import DirectoryPath, Field, ValidationInfo, field_validator

from shared.access.settings import AccessSettings
from shared.process.log_config import LogFormat, LogLevel
from shared.queue.keys import JOB_TTL_S
from shared.registry.queue_settings import QueueSettings

# An `Origin` header: scheme, host and port in lower case, no path.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,]+")

# A bucket's name as S3 allows it, and a path without empty or dot segments.
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*/?")
ENDPOINT = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")

DEFAULT_PORT = re.compile(r"(?<=^http)(://.*):80$|(?<=^https)(://.*):443$")  # browsers omit it

# Unreserved characters only, so that no client reads it as a host; no dot segments.
PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")


class ApiSettings(AccessSettings, QueueSettings):
    host: str = Field("127.0.0.1", description="Address.")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    max_body_bytes: int = Field(
        1_048_576, ge=1, le=2**30, description="Larger request bodies get 413."
    )
    max_file_bytes: int = Field(
        200 * 1024 * 1024, ge=1, le=2**34, description="Larger files of batches get 413."
    )
    files_dir: DirectoryPath | None = Field(
        None, description="Folder for the files of batches, shared by all replicas; else Redis."
    )
    files_bucket: str | None = Field(
        None,
        description="Bucket for the files of batches instead: s3://BUCKET or s3://BUCKET/PATH.",
    )
    files_endpoint: str | None = Field(
        None, description="URL of the bucket's service, if it is not AWS."
    )
    max_queued: int = Field(10_000, ge=1, description="Waiting jobs; above, 429.")
    max_queued_tokens: int = Field(
        20_000_000, ge=1, le=2**53, description="KV cache tokens of waiting jobs; above, 429."
    )
    sync_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="A longer wait ends with 504; the job continues."
    )
    max_ttl_s: int = Field(
        JOB_TTL_S, ge=1, le=30 * 86_400, description="Longest ttl_s of a request."
    )
    grace_s: float = Field(10.0, ge=0, le=3600, description="Time for open requests at a shutdown.")
    cors_origins: str | None = Field(None, description="Origins of web pages, with commas, or *.")
    root_path: str | None = Field(None, description="Path prefix behind a proxy, such as /falcon.")
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-Prefix counts: addresses, networks, or *.",
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console or json.")

    @field_validator("files_bucket")
    @classmethod
    def _check_bucket(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            if not BUCKET.fullmatch(value):
                raise ValueError("must be s3://BUCKET or s3://BUCKET/PATH")
            if info.data.get("files_dir") is not None:
                raise ValueError("must not be set together with --files-dir")
            if find_spec("obstore") is None:
                raise ValueError("needs the extra s3: pip install 'falconer[s3]'")
        return value

    @field_validator("files_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            if not ENDPOINT.fullmatch(value):
                raise ValueError("must be a URL such as https://minio.example.com:9000")
            if info.data.get("files_bucket", "") is None:
                raise ValueError("must be set together with --files-bucket")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str | None) -> str | None:
        """Return the origins as browsers send them: in lower case, without default ports."""
        origins = [DEFAULT_PORT.sub(r"\1\2", item) for item in items((value or "").lower())]
        for origin in origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} must be an origin such as https://app.example.com, without a path"
                )
        return ",".join(origins) or None

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str | None) -> str | None:
        """Return the prefix without a slash at its end."""
        prefix = (value or "").removesuffix("/")
        if prefix and not PREFIX.fullmatch(prefix):
            raise ValueError(
                "must be a path such as /falcon, of letters, digits, '-', '.', '_' and '~'"
            )
        return prefix or None

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        for proxy in items(value):
            if proxy != "*":
                ip_network(proxy)  # raises a ValueError with the reason
        return value

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network] | None:
        """Return the networks of trusted proxies; None: every client is trusted."""
        proxies = items(self.forwarded_allow_ips)
        return None if "*" in proxies else [ip_network(proxy) for proxy in proxies]


def items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
