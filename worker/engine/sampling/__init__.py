"""Sampling: from logits to tokens, with log-probabilities.

Other packages import `sampler` (sample_tokens), `static_sampler` (the same in fixed shapes),
`sampled_token` (SampledToken, SamplingFailure), `token_history` (TokenHistory) and, for beams,
`multinomial`, `philox` and `sorting`.
"""
