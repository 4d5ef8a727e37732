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
    MAX_SCALE,
    MAX_TOP_LOGPROBS,
    MIN_SCALE,
)
from shared.request.parameter_types import (
    WHOLE,
    Biases,
    Count,
    LengthDecay,
    PositiveCount,
    Seed,
    StopStrings,
    TokenId,
    TokenIds,
    Words,
    broken_rule,
    while_sampling,
)


class GenerateKwargs(OptionalFieldsModel):
    """How to generate the continuation, with the semantics of transformers' `generate`.

    `null` means the default, with two exceptions: `eos_token_id: null` never stops early, and
    `top_k: null` keeps all tokens. The checks of a field may use the fields before it.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"max_new_tokens": 40, "do_sample": False}]}
    )
    keeps_null: ClassVar[frozenset[str]] = frozenset({"eos_token_id", "top_k"})

    # Length in tokens. If both are given, the limit of new tokens applies.
    max_length: PositiveCount = Field(
        default=200,
        description="Maximum number of tokens, prompt included.",
        examples=[200],
    )
    max_new_tokens: PositiveCount | None = Field(
        default=None, description="Maximum number of tokens after the prompt.", examples=[40]
    )
    min_length: Count = Field(
        default=0,
        description="Minimum number of tokens, prompt included.",
    )
    min_new_tokens: Count | None = Field(
        default=None,
        description="Minimum number of tokens after the prompt.",
    )

    # Sampling. Greedy decoding ignores the rest of this group.
    do_sample: bool = Field(
        default=True,
        description="Sample the next token; false takes the likeliest (greedy decoding).",
    )
    temperature: Annotated[float, while_sampling(ge=MIN_SCALE, le=MAX_SCALE)] = Field(
        default=1.0,
        description="Divides the logits. From 1e-6 to 1e6 while sampling.",
        examples=[0.7],
    )
    top_k: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT), WHOLE, while_sampling(ge=0)] | None = (
        Field(default=10, description="Keep the k likeliest tokens; 0 or null keeps all.")
    )
    top_p: Annotated[float, while_sampling(gt=0, le=1)] = Field(
        default=1.0,
        description="Keep the likeliest tokens up to this total probability; 1 keeps all.",
    )
    min_p: Annotated[float, while_sampling(ge=0, le=1)] | None = Field(
        default=None,
        description="Keep tokens with at least this share of the likeliest token's probability.",
    )
    typical_p: Annotated[float, while_sampling(gt=0)] = Field(
        default=1.0,
        description="Keep the most typical tokens up to this total probability; 1 keeps all.",
    )
    epsilon_cutoff: Annotated[float, while_sampling(ge=0, lt=1)] = Field(
        default=0.0, description="Drop tokens below this probability; 0 drops none."
    )
    eta_cutoff: Annotated[float, while_sampling(ge=0, lt=1)] = Field(
        default=0.0, description="Drop tokens by a bound that depends on the entropy; 0 drops none."
    )
    seed: Seed | None = Field(
        default=None,
        description="Equal requests with equal seeds have equal results. Random by default.",
        examples=[1],
    )

    # Beams.
    num_beams: PositiveCount = Field(
        default=1,
        description="Number of beams, sampled with do_sample; 1 disables beam search.",
        examples=[4],
    )
    num_beam_groups: PositiveCount = Field(
        default=1, description="Groups of diverse beam search; must divide num_beams."
    )
    diversity_penalty: float = Field(
        default=0.0,
        ge=-MAX_BIAS,
        le=MAX_BIAS,
        validate_default=True,
        description="Subtracted from tokens of other groups; must be > 0 with several groups.",
    )
    early_stopping: Literal[True, False, "never"] = Field(
        default=False,
        description="When beam search stops. true: once num_beams sequences are complete; false: "
        'when better sequences are unlikely; "never": when better sequences are impossible.',
    )
    length_penalty: float = Field(
        default=1.0,
        ge=-MAX_LENGTH_POWER,
        le=MAX_LENGTH_POWER,
        description="A beam's score is divided by its length to this power: > 0 favours length.",
    )
    num_return_sequences: PositiveCount = Field(
        default=1,
        description="Number of sequences: 1 with greedy decoding, at most num_beams with beams.",
    )

    # Repetition, banned and forced tokens. They apply to the prompt too.
    repetition_penalty: float = Field(
        default=1.0,
        ge=MIN_SCALE,
        le=MAX_SCALE,
        description="Values > 1 discourage tokens that occurred before.",
        examples=[1.1],
    )
    no_repeat_ngram_size: Count = Field(
        default=0, description="Generate no n-gram of this size twice; 0 disables."
    )
    encoder_no_repeat_ngram_size: Count = Field(
        default=0, description="Generate no n-gram of this size that the prompt has; 0 disables."
    )
    bad_words_ids: Words | None = Field(
        default=None, description="Token sequences to ban; a flat list bans single tokens."
    )
    suppress_tokens: TokenIds | None = Field(default=None, description="Tokens to ban.")
    begin_suppress_tokens: TokenIds | None = Field(
        default=None, description="Tokens to ban directly after the prompt."
    )
    sequence_bias: Biases | None = Field(
        default=None, description="Pairs of a token sequence and the value to add to its logits."
    )
    forced_bos_token_id: TokenId | None = Field(
        default=None, description="The first generated token if the prompt has one token."
    )
    forced_eos_token_id: TokenIds | None = Field(
        default=None, description="The last token if max_length is reached."
    )

    # End of a sequence.
    eos_token_id: TokenIds | None = Field(
        default=None,
        description="Tokens that end a sequence, at most 16 with num_beams > 1; null means none. "
        "Defaults to the model's.",
    )
    pad_token_id: TokenId | None = Field(
        default=None,
        description="Token that a finished group of diverse beams counts as choosing. Defaults to "
        "the model's, else to the first eos_token_id. Nothing else is padded.",
    )
    stop_strings: StopStrings | None = Field(
        default=None,
        description="Texts that end a sequence. The result keeps the text.",
        examples=["\nUser:"],
    )
    exponential_decay_length_penalty: LengthDecay | None = Field(
        default=None,
        description="[start, factor]: after `start` new tokens the eos token becomes likelier.",
    )

    # Speculative decoding, which does not change results.
    prompt_lookup_num_tokens: Count | None = Field(
        default=None,
        description="Maximum number of tokens per step that are drafted by prompt lookup. The "
        "result is the same, and faster where it repeats text. 0 disables; beams draft none. "
        "Defaults to the worker's setting.",
        examples=[10],
    )
    max_matching_ngram_size: Annotated[int, Field(ge=1, le=MAX_LOOKUP_NGRAM), WHOLE] = Field(
        default=2,
        description="Maximum length of the n-gram by which drafts are looked up.",
    )

    # Logits and log-probabilities.
    remove_invalid_values: bool = Field(default=False, description="Replace nan and inf logits.")
    renormalize_logits: bool = Field(
        default=False, description="Normalize logits after all processors."
    )
    output_scores: bool = Field(
        default=False, description="Return token ids and their log-probabilities."
    )
    return_dict_in_generate: bool = Field(default=False, description="Same as output_scores.")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), WHOLE] | None = Field(
        default=None,
        description="Also return the k highest log-probabilities of each step.",
    )

    @property
    def wants_scores(self) -> bool:
        """Return whether the result contains token ids and log-probabilities."""
        return self.output_scores or self.return_dict_in_generate or self.top_logprobs is not None

    @field_validator("num_beam_groups")
    @classmethod
    def _check_num_beam_groups(cls, groups: int, info: ValidationInfo) -> int:
        num_beams = info.data.get("num_beams", groups)
        if num_beams % groups:
            raise broken_rule(f"must divide num_beams, which is {num_beams}")
        if groups > 1 and info.data.get("do_sample"):
            raise broken_rule("must be 1 while do_sample is true")
        return groups

    @field_validator("diversity_penalty")
    @classmethod
    def _check_diversity_penalty(cls, penalty: float, info: ValidationInfo) -> float:
        if penalty <= 0 and info.data.get("num_beam_groups", 1) > 1:
            raise broken_rule("must be > 0 with num_beam_groups > 1")
        return penalty

    @field_validator("num_return_sequences")
    @classmethod
    def _check_num_return_sequences(cls, count: int, info: ValidationInfo) -> int:
        num_beams = info.data.get("num_beams", count)
        if num_beams > 1 and count > num_beams:
            raise broken_rule(f"must be at most num_beams, which is {num_beams}")
        if num_beams == 1 and count > 1 and not info.data.get("do_sample", True):
            raise broken_rule("must be 1 in greedy decoding (do_sample false, num_beams 1)")
        return count

    @field_validator("eos_token_id")
    @classmethod
    def _check_eos_token_id(cls, eos: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if info.data.get("num_beams", 1) > 1 and len(eos or ()) > MAX_BEAM_EOS:
            raise broken_rule(f"must hold at most {MAX_BEAM_EOS} with num_beams > 1")
        return eos

    @field_validator("forced_bos_token_id", "forced_eos_token_id")
    @classmethod
    def _check_forced_token_ids(
        cls, forced: int | list[int] | None, info: ValidationInfo
    ) -> int | list[int] | None:
        forced_ids = {forced} if isinstance(forced, int) else set(forced or ())
        if forced_ids and forced_ids.issubset(info.data.get("suppress_tokens") or ()):
            raise broken_rule("must name a token that is not in suppress_tokens")
        return forced
