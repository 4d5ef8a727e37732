"""The settings that api and workers have in common: their Redis, and the queues of its models."""

import re

from pydantic import Field, field_validator

from shared.errors import SettingsError
from shared.process.settings import ProcessSettings
from shared.queue.keys import MAX_QUEUE_NAME, Keys

MAX_MODELS = 100  # metrics have a series for each
MODEL_NAME = re.compile(r"[^\s,:]{1,255}")  # part of Redis keys


class QueueSettings(ProcessSettings):
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="URL; see docs/guides/redis.md.")
    queue: str = Field(
        "falconer:queue",
        min_length=1,
        max_length=MAX_QUEUE_NAME,
        description="Name of the queue.",
    )
    models: str | None = Field(
        None,
        description="Names of all models of the service, with commas; requests without `model` get "
        "the first. Unset: one model.",
    )

    @field_validator("models")
    @classmethod
    def _check_models(cls, value: str | None) -> str | None:
        names = split_names(value)
        for name in names:
            if not MODEL_NAME.fullmatch(name):
                raise ValueError(
                    f"the name {name[:40]!r} must have 1 to 255 characters, without spaces or ':'"
                )
        if len(set(names)) < len(names):
            raise ValueError("must name each model once")
        if len(names) > MAX_MODELS:
            raise ValueError(f"must name at most {MAX_MODELS} models")
        return ",".join(names) or None

    @property
    def model_names(self) -> tuple[str, ...]:
        """Return the names of the models; none if the service has one model of any name."""
        return split_names(self.models)

    @property
    def all_keys(self) -> tuple[Keys, ...]:
        """Return the keys of each model, in order: the first has the queue of a single model."""
        return (Keys(self.queue), *(Keys(self.queue, name) for name in self.model_names[1:]))

    def keys_of(self, name: str) -> Keys:
        """Return the keys of a model, by the name that the API shows. Raises SettingsError."""
        if not self.model_names:
            return Keys(self.queue)
        if name not in self.model_names:
            raise SettingsError(
                f"--models (or FALCONER_MODELS) = {self.models!r}: must name the model {name!r}"
            )
        return self.all_keys[self.model_names.index(name)]


def split_names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
