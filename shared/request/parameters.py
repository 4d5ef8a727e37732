"""The table of generation parameters: names, defaults, ranges and the rules between them.

Everything a request may put in `generate_kwargs` is a field here; anything else is refused.
Limits that depend on the model (vocabulary, context, rows) are `shared/request/prompt.py`'s.
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
    """How the continuation is generated. Semantics are those of transformers' `generate`.

    `null` stands for the default, with two exceptions: `eos_token_id: null` never stops early
    and `top_k: null` keeps all tokens. Fields later in the table may look at earlier ones.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"max_new_tokens": 40, "do_sample": False}]}
    )
    keeps_null: ClassVar[frozenset[str]] = frozenset({"eos_token_id", "top_k"})

    # Length, in tokens. Where both are given, the one that counts new tokens wins.
    max_length: PositiveCount = Field(
        default=200,
        description="Most tokens in all, the prompt included.",
        examples=[200],
    )
    max_new_tokens: PositiveCount | None = Field(
        default=None, description="Most tokens after the prompt.", examples=[40]
    )
    min_length: Count = Field(
        default=0,
        description="No end before this many tokens, the prompt included.",
    )
    min_new_tokens: Count | None = Field(
        default=None,
        description="No end before this many tokens after the prompt.",
    )

    # Choice of the next token. Greedy decoding ignores the rest of this group.
    do_sample: bool = Field(
        default=True, description="Draw the next token; false takes the likeliest."
    )
    temperature: Annotated[float, while_sampling(ge=MIN_SCALE, le=MAX_SCALE)] = Field(
        default=1.0,
        description="Divides the logits. From 1e-6 to 1e6 while sampling.",
        examples=[0.7],
    )
    top_k: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT), WHOLE, while_sampling(ge=0)] | None = (
        Field(default=10, description="Keep the k likeliest tokens; 0 or null: all.")
    )
    top_p: Annotated[float, while_sampling(gt=0, le=1)] = Field(
        default=1.0, description="Keep the likeliest tokens that make up this probability; 1: all."
    )
    min_p: Annotated[float, while_sampling(ge=0, le=1)] | None = Field(
        default=None,
        description="Keep tokens at least this likely, as a share of the likeliest one.",
    )
    typical_p: Annotated[float, while_sampling(gt=0)] = Field(
        default=1.0,
        description="Keep the most typical tokens that make up this probability; 1: all.",
    )
    epsilon_cutoff: Annotated[float, while_sampling(ge=0, lt=1)] = Field(
        default=0.0, description="Drop tokens less likely than this; 0: none."
    )
    eta_cutoff: Annotated[float, while_sampling(ge=0, lt=1)] = Field(
        default=0.0, description="Drop tokens by an entropy-dependent bound; 0: none."
    )
    seed: Seed | None = Field(
        default=None,
        description="Same seed, same request, same result; drawn and returned when not given.",
        examples=[1],
    )

    # Beams.
    num_beams: PositiveCount = Field(
        default=1,
        description="Beams searched together, with do_sample drawn; 1: no beam search.",
        examples=[4],
    )
    num_beam_groups: PositiveCount = Field(
        default=1, description="Groups of diverse beams; divides num_beams."
    )
    diversity_penalty: float = Field(
        default=0.0,
        ge=-MAX_BIAS,
        le=MAX_BIAS,
        validate_default=True,
        description="Taken from tokens another group chose. Above 0 with several groups.",
    )
    early_stopping: Literal[True, False, "never"] = Field(
        default=False,
        description="When beam search stops. true: once num_beams sequences have ended; false: "
        'when better ones are unlikely; "never": when there can be none.',
    )
    length_penalty: float = Field(
        default=1.0,
        ge=-MAX_LENGTH_POWER,
        le=MAX_LENGTH_POWER,
        description="Power of the length that divides a beam's score: above 0 favours length.",
    )
    num_return_sequences: PositiveCount = Field(
        default=1,
        description="Sequences made. Greedy: 1; beams: at most num_beams.",
    )

    # Repetition, banned and forced tokens. All of them see the prompt too.
    repetition_penalty: float = Field(
        default=1.0,
        ge=MIN_SCALE,
        le=MAX_SCALE,
        description="Above 1 discourages tokens that were there before.",
        examples=[1.1],
    )
    no_repeat_ngram_size: Count = Field(
        default=0, description="No n-gram of this size twice; 0: off."
    )
    encoder_no_repeat_ngram_size: Count = Field(
        default=0, description="No n-gram of this size from the prompt; 0: off."
    )
    bad_words_ids: Words | None = Field(
        default=None, description="Token sequences never made; a flat list bans single tokens."
    )
    suppress_tokens: TokenIds | None = Field(default=None, description="Tokens never made.")
    begin_suppress_tokens: TokenIds | None = Field(
        default=None, description="Tokens never made right after the prompt."
    )
    sequence_bias: Biases | None = Field(
        default=None, description="Pairs of a token sequence and what is added to its logits."
    )
    forced_bos_token_id: TokenId | None = Field(
        default=None, description="The second token, when the prompt is one token long."
    )
    forced_eos_token_id: TokenIds | None = Field(
        default=None, description="The last token, when max_length is reached."
    )

    # The end.
    eos_token_id: TokenIds | None = Field(
        default=None,
        description="Tokens that end a sequence, at most 16 with num_beams > 1; null: none; "
        "not given: the model's.",
    )
    pad_token_id: TokenId | None = Field(
        default=None,
        description="What a group of diverse beams counts as choosing once it is done (not given: "
        "the model's, else the first eos_token_id); nothing else is padded.",
    )
    stop_strings: StopStrings | None = Field(
        default=None,
        description="Texts that end a sequence; the text itself is kept.",
        examples=["\nUser:"],
    )
    exponential_decay_length_penalty: LengthDecay | None = Field(
        default=None,
        description="[start, factor]: after `start` new tokens the end gets ever likelier.",
    )

    # Speed, at which results stay the same.
    prompt_lookup_num_tokens: Count | None = Field(
        default=None,
        description="Most tokens guessed per step from what prompt and answer repeat; the result "
        "is the same, sooner where it quotes. Beams guess none. 0: off; not given: the worker's.",
        examples=[10],
    )
    max_matching_ngram_size: Annotated[int, Field(ge=1, le=MAX_LOOKUP_NGRAM), WHOLE] = Field(
        default=2,
        description="Longest run of last tokens that such a guess is looked up by.",
    )

    # Logits and what is told about them.
    remove_invalid_values: bool = Field(default=False, description="Repair nan and inf logits.")
    renormalize_logits: bool = Field(default=False, description="Normalize after all processors.")
    output_scores: bool = Field(
        default=False, description="Return log-probabilities of chosen tokens."
    )
    return_dict_in_generate: bool = Field(default=False, description="Same as output_scores.")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), WHOLE] | None = Field(
        default=None,
        description="Also return the k best log-probabilities of each step.",
    )

    @property
    def wants_scores(self) -> bool:
        """Whether the result tells of token ids and their log-probabilities."""
        return self.output_scores or self.return_dict_in_generate or self.top_logprobs is not None

    @field_validator("num_beam_groups")
    @classmethod
    def _groups_divide_the_beams(cls, groups: int, info: ValidationInfo) -> int:
        num_beams = info.data.get("num_beams", groups)
        if num_beams % groups:
            raise broken_rule(f"should divide num_beams, which is {num_beams}")
        if groups > 1 and info.data.get("do_sample"):
            raise broken_rule("must be 1 while do_sample is true")
        return groups

    @field_validator("diversity_penalty")
    @classmethod
    def _groups_are_diverse(cls, penalty: float, info: ValidationInfo) -> float:
        if penalty <= 0 and info.data.get("num_beam_groups", 1) > 1:
            raise broken_rule("must be > 0 with num_beam_groups > 1")
        return penalty

    @field_validator("num_return_sequences")
    @classmethod
    def _sequences_can_be_made(cls, count: int, info: ValidationInfo) -> int:
        num_beams = info.data.get("num_beams", count)
        if num_beams > 1 and count > num_beams:
            raise broken_rule(f"must be at most num_beams, which is {num_beams}")
        if num_beams == 1 and count > 1 and not info.data.get("do_sample", True):
            raise broken_rule("must be 1 in greedy decoding (do_sample false, num_beams 1)")
        return count

    @field_validator("eos_token_id")
    @classmethod
    def _beams_have_few_eos(cls, eos: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if info.data.get("num_beams", 1) > 1 and len(eos or ()) > MAX_BEAM_EOS:
            raise broken_rule(f"should hold at most {MAX_BEAM_EOS} with num_beams > 1")
        return eos

    @field_validator("forced_bos_token_id", "forced_eos_token_id")
    @classmethod
    def _a_forced_token_is_not_suppressed(
        cls, forced: int | list[int] | None, info: ValidationInfo
    ) -> int | list[int] | None:
        forced_ids = {forced} if isinstance(forced, int) else set(forced or ())
        if forced_ids and forced_ids.issubset(info.data.get("suppress_tokens") or ()):
            raise broken_rule("should name a token that is not in suppress_tokens")
        return forced
