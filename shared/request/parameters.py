"""Generation parameters: names, defaults, ranges and the rules between them.

`GenerateKwargs` has a field for everything that `generate_kwargs` of a request may contain.
`shared/request/prompt.py` checks the limits of the model: vocabulary, context and rows.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from shared.request.base_model import OptionalFieldsModel
from shared.request.limits import (
    MAX_BEAM_EOS,
    MAX_BIAS,
    MAX_INT,
    MAX_LENGTH_POWER,
    MAX_LOOKUP_NGRAM,
    MAX_PENALTY,
    MAX_SCALE,
    MAX_TOP_LOGPROBS,
    MIN_SCALE,
)
from shared.request.parameter_types import (
    INTEGER,
    Biases,
    Count,
    EarlyStopping,
    LengthDecay,
    PositiveCount,
    Seed,
    StopStrings,
    TokenId,
    TokenIds,
    Words,
    rule_error,
    while_sampling,
)
from shared.request.structured_outputs import OptionalStructure


class GenerateKwargs(OptionalFieldsModel):
    """How to generate the continuation, with the semantics of transformers' `generate`.

    `null` means the default, with two exceptions: `eos_token_id: null` never stops early, and
    `top_k: null` keeps all tokens. The checks of a field may use the fields before it.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"max_new_tokens": 40, "do_sample": False}]}
    )
    nullable_fields: ClassVar[frozenset[str]] = frozenset({"eos_token_id", "top_k"})

    # Length in tokens. If both are given, the limit of new tokens applies.
    max_length: PositiveCount = Field(
        default=200,
        description="Most tokens, prompt included.",
        examples=[200],
    )
    max_new_tokens: PositiveCount | None = Field(
        default=None, description="Most new tokens.", examples=[40]
    )
    min_length: Count = Field(
        default=0,
        description="Fewest tokens, prompt included.",
    )
    min_new_tokens: Count | None = Field(
        default=None,
        description="Fewest new tokens.",
    )

    # Sampling. Greedy decoding ignores the rest of this group.
    do_sample: bool = Field(
        default=True,
        description="Sample; false is greedy decoding.",
    )
    temperature: Annotated[float, while_sampling(ge=MIN_SCALE, le=MAX_SCALE)] = Field(
        default=1.0,
        description="Divides the logits; 1e-6 to 1e6.",
        examples=[0.7],
    )
    top_k: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT), INTEGER, while_sampling(ge=0)] | None = (
        Field(default=10, description="Keep the k likeliest tokens; 0 keeps all.")
    )
    top_p: Annotated[float, while_sampling(gt=0, le=1)] = Field(
        default=1.0,
        description="Keep the likeliest tokens up to this total probability.",
    )
    min_p: Annotated[float, while_sampling(ge=0, le=1)] | None = Field(
        default=None,
        description="Keep tokens with this share of the likeliest token's probability.",
    )
    typical_p: Annotated[float, while_sampling(gt=0)] = Field(
        default=1.0,
        description="Keep the most typical tokens up to this total probability.",
    )
    epsilon_cutoff: Annotated[float, while_sampling(ge=0, lt=1)] = Field(
        default=0.0, description="Drop tokens below this probability."
    )
    eta_cutoff: Annotated[float, while_sampling(ge=0, lt=1)] = Field(
        default=0.0, description="Drop tokens below min(eta, sqrt(eta) * exp(-entropy))."
    )
    seed: Seed | None = Field(
        default=None,
        description="Repeats the result; random by default.",
        examples=[1],
    )

    # Beams.
    num_beams: PositiveCount = Field(
        default=1,
        description="Beams, sampled with do_sample.",
        examples=[4],
    )
    num_beam_groups: PositiveCount = Field(default=1, description="Groups of diverse beams.")
    diversity_penalty: float = Field(
        default=0.0,
        ge=-MAX_BIAS,
        le=MAX_BIAS,
        validate_default=True,
        description="Subtracted from other groups' tokens; > 0 with several groups.",
    )
    early_stopping: EarlyStopping = Field(
        default=False,
        description="When to stop: true once num_beams sequences are complete, false once a "
        "better one is unlikely, `never` once none is possible.",
    )
    length_penalty: float = Field(
        default=1.0,
        ge=-MAX_LENGTH_POWER,
        le=MAX_LENGTH_POWER,
        description="Power of the length that divides a beam's score.",
    )
    num_return_sequences: PositiveCount = Field(
        default=1,
        description="Sequences: 1 if greedy, with beams at most num_beams.",
    )

    # Repetition, banned and forced tokens. They apply to the prompt too.
    repetition_penalty: float = Field(
        default=1.0,
        ge=MIN_SCALE,
        le=MAX_SCALE,
        description="Above 1 discourages earlier tokens.",
        examples=[1.1],
    )
    presence_penalty: float = Field(
        default=0.0,
        ge=-MAX_PENALTY,
        le=MAX_PENALTY,
        description="Subtracted from the logit of each token that the sequence has generated.",
    )
    frequency_penalty: float = Field(
        default=0.0,
        ge=-MAX_PENALTY,
        le=MAX_PENALTY,
        description="Subtracted as often as the sequence has generated the token.",
    )
    no_repeat_ngram_size: Count = Field(default=0, description="No n-gram of this size twice.")
    encoder_no_repeat_ngram_size: Count = Field(
        default=0, description="No n-gram of this size from the prompt."
    )
    bad_words_ids: Words | None = Field(
        default=None, description="Banned token sequences, or single tokens."
    )
    suppress_tokens: TokenIds | None = Field(default=None, description="Banned tokens.")
    begin_suppress_tokens: TokenIds | None = Field(
        default=None, description="Banned directly after the prompt."
    )
    sequence_bias: Biases | None = Field(
        default=None, description="Pairs of a token sequence and its bias."
    )
    forced_bos_token_id: TokenId | None = Field(
        default=None, description="First new token if the prompt has one token."
    )
    forced_eos_token_id: TokenIds | None = Field(
        default=None, description="Last token at max_length."
    )

    # End of a sequence.
    eos_token_id: TokenIds | None = Field(
        default=None,
        description="End a sequence; null: none; at most 16 with beams. Defaults to the model's.",
    )
    pad_token_id: TokenId | None = Field(
        default=None,
        description="Choice of a finished group of diverse beams, else unused. Defaults to the "
        "model's, else eos.",
    )
    stop_token_ids: TokenIds | None = Field(
        default=None, description="End a sequence, in addition to eos_token_id; no beams."
    )
    stop_strings: StopStrings | None = Field(
        default=None,
        description="Texts that end a sequence and stay in it.",
        examples=["\nUser:"],
    )
    include_stop_str_in_output: bool = Field(
        default=True,
        description="False: the text ends before the stop string or stop token, and a stop string "
        "must lie in the new text.",
    )
    exponential_decay_length_penalty: LengthDecay | None = Field(
        default=None,
        description="[start, factor]: eos becomes likelier after `start` new tokens.",
    )

    structured_outputs: OptionalStructure = Field(default=None, description="Form of the text.")

    # Speculative decoding, which does not change results.
    prompt_lookup_num_tokens: Count | None = Field(
        default=None,
        description="Most drafts per step by prompt lookup, which changes no result. Beams draft "
        "none. Defaults to the worker's setting.",
        examples=[10],
    )
    max_matching_ngram_size: Annotated[int, Field(ge=1, le=MAX_LOOKUP_NGRAM), INTEGER] = Field(
        default=2,
        description="Longest n-gram by which drafts are looked up.",
    )

    # Logits and log-probabilities.
    remove_invalid_values: bool = Field(default=False, description="Replace nan and inf logits.")
    renormalize_logits: bool = Field(default=False, description="Normalize after all processors.")
    output_scores: bool = Field(
        default=False, description="Return token ids with log-probabilities."
    )
    return_dict_in_generate: bool = Field(default=False, description="Same as output_scores.")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGER] | None = Field(
        default=None,
        description="Return each step's k best log-probabilities.",
    )
    logprobs_mode: Literal["processed_logprobs", "raw_logprobs"] = Field(
        default="processed_logprobs",
        description="Log-probabilities after all processors, or of the model's own logits. Beams "
        "have the former.",
    )
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGER] | None = Field(
        default=None,
        description="Return log-probabilities of the prompt's tokens, with the k best; no beams.",
    )
    return_token_ids: bool = Field(default=False, description="Return token ids, the prompt's too.")

    @property
    def wants_scores(self) -> bool:
        """Return whether the result contains token ids and log-probabilities."""
        return self.output_scores or self.return_dict_in_generate or self.top_logprobs is not None

    @field_validator("num_beam_groups")
    @classmethod
    def _check_num_beam_groups(cls, groups: int, info: ValidationInfo) -> int:
        num_beams = info.data.get("num_beams", groups)
        if num_beams % groups:
            raise rule_error(f"must divide num_beams, which is {num_beams}")
        if groups > 1 and info.data.get("do_sample"):
            raise rule_error("must be 1 while do_sample is true")
        return groups

    @field_validator("diversity_penalty")
    @classmethod
    def _check_diversity_penalty(cls, penalty: float, info: ValidationInfo) -> float:
        if penalty <= 0 and info.data.get("num_beam_groups", 1) > 1:
            raise rule_error("must be > 0 with num_beam_groups > 1")
        return penalty

    @field_validator("num_return_sequences")
    @classmethod
    def _check_num_return_sequences(cls, count: int, info: ValidationInfo) -> int:
        num_beams = info.data.get("num_beams", count)
        if num_beams > 1 and count > num_beams:
            raise rule_error(f"must be at most num_beams, which is {num_beams}")
        if num_beams == 1 and count > 1 and not info.data.get("do_sample", True):
            raise rule_error("must be 1 in greedy decoding (do_sample false, num_beams 1)")
        return count

    @field_validator("stop_token_ids", "prompt_logprobs")
    @classmethod
    def _check_without_beams(
        cls, value: int | list[int] | None, info: ValidationInfo
    ) -> int | list[int] | None:
        if value is not None and info.data.get("num_beams", 1) > 1:
            raise rule_error("must not be given with num_beams > 1")
        return value

    @field_validator("eos_token_id")
    @classmethod
    def _check_eos_token_id(cls, eos: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if info.data.get("num_beams", 1) > 1 and len(eos or ()) > MAX_BEAM_EOS:
            raise rule_error(f"must hold at most {MAX_BEAM_EOS} with num_beams > 1")
        return eos

    @field_validator("forced_bos_token_id", "forced_eos_token_id")
    @classmethod
    def _check_forced_token_ids(
        cls, forced: int | list[int] | None, info: ValidationInfo
    ) -> int | list[int] | None:
        forced_ids = {forced} if isinstance(forced, int) else set(forced or ())
        if forced_ids and forced_ids.issubset(info.data.get("suppress_tokens") or ()):
            raise rule_error("must name a token that is not in suppress_tokens")
        return forced
