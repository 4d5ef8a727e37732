"""Sampling: from logits to tokens, with log-probabilities.

The engine calls `token_selection` (select_tokens). Other packages import `sampled_token`
(SampledToken, SamplingFailure), `sampler` (messages of failures), `token_history` (TokenHistory)
and, for beams, `multinomial`, `philox` and `sorting`.
"""
