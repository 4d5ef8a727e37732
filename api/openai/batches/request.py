"""The body of `POST /v1/batches`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from api.examples import BATCH
from api.openai.batches.lines import ENDPOINTS, MAX_CUSTOM_ID, MAX_LINES
from api.schemas import Metadata
from shared.errors import InvalidParameter
from shared.queue.keys import BATCH_MAX_S, FILE_TTL_S, MAX_FILE_TTL_S
from shared.request.base_model import OptionalFieldsModel, StrictModel
from shared.request.parameter_types import INTEGER

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
MIN_TTL_S = 3600
MAX_DIGITS = 18


def number_of(value: Any) -> Any:
    """Return the number that a field of a form holds."""
    is_number = isinstance(value, str) and value.isascii() and value.isdecimal()
    return int(value) if is_number and len(value) <= MAX_DIGITS else value


Window = Annotated[str, Field(pattern="^[1-9][0-9]{0,6}[smhd]$")]
Seconds = Annotated[int, Field(ge=MIN_TTL_S, le=MAX_FILE_TTL_S), INTEGER]


class ExpiresAfter(StrictModel):
    """When a file expires."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Seconds = Field(description="From an hour to 30 days.")


class UploadFields(OptionalFieldsModel):
    """The fields of `POST /v1/files`, without the file."""

    purpose: Literal["batch"] = Field(description="Only `batch`.")
    anchor: Literal["created_at"] | None = Field(
        default=None, alias="expires_after[anchor]", description="Only `created_at`."
    )
    seconds: Annotated[Seconds | None, BeforeValidator(number_of)] = Field(
        default=None,
        alias="expires_after[seconds]",
        description="When the file expires, from an hour to 30 days. Default: 7 days.",
    )

    @property
    def ttl_s(self) -> int:
        return FILE_TTL_S if self.seconds is None else self.seconds


class InlineRequest(StrictModel):
    """A line of a batch without a file."""

    custom_id: str = Field(min_length=1, max_length=MAX_CUSTOM_ID, description="Its name.")
    method: Literal["POST"] = Field(default="POST", description="Only `POST`.")
    url: str | None = Field(default=None, description="The `endpoint` of the batch, if given.")
    body: dict[str, Any] = Field(description="The body of the request.")


class BatchRequest(OptionalFieldsModel):
    """The requests of a file or of a list, to be answered within a time."""

    model_config = ConfigDict(json_schema_extra={"examples": [BATCH]})

    input_file_id: str | None = Field(
        default=None, max_length=64, description="A file of purpose `batch`, a request per line."
    )
    requests: list[InlineRequest] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_LINES,
        fail_fast=True,
        description="The requests themselves, instead of a file.",
    )
    endpoint: str = Field(description=f"The path of all requests: {', '.join(ENDPOINTS)}.")
    completion_window: Window = Field(
        default="24h",
        description="Then the batch expires: a number of `s`, `m`, `h` or `d`, at most 30 days.",
    )
    metadata: Metadata | None = Field(default=None, description="Up to 16 pairs.")
    output_expires_after: ExpiresAfter | None = Field(
        default=None, description="When the files of results expire. Default: 7 days."
    )

    @property
    def window_s(self) -> int:
        """Return the completion window in seconds."""
        return int(self.completion_window[:-1]) * UNITS_S[self.completion_window[-1]]

    @property
    def output_ttl_s(self) -> int:
        after = self.output_expires_after
        return FILE_TTL_S if after is None else after.seconds

    def check(self) -> None:
        """Check rules between fields. Raises InvalidParameter."""
        if self.endpoint not in ENDPOINTS:
            raise InvalidParameter(f"must be one of {', '.join(ENDPOINTS)}", field="endpoint")
        if self.window_s > BATCH_MAX_S:
            reason = f"must be at most {BATCH_MAX_S // 86_400} days"
            raise InvalidParameter(reason, field="completion_window")
        if (self.input_file_id is None) is (self.requests is None):
            raise InvalidParameter(
                "must be given, or else requests, and not both", field="input_file_id"
            )
        for index, one in enumerate(self.requests or ()):
            if one.url not in (None, self.endpoint):
                reason = f"must be the batch's endpoint, {self.endpoint}"
                raise InvalidParameter(reason, field=f"requests.{index}.url")
