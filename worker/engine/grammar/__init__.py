"""Structured outputs: which tokens a grammar of llguidance allows next.

Others import `grammars` (the compiled grammars of an engine) and `output_constraint` (the state of
one sequence or beam search).
"""
