"""Bounds of generation parameters. The api and the engine both check them; imports nothing."""

MAX_INT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_BEAM_EOS = 16  # eos ids in beam search: each is one more candidate per beam and step
MAX_LOOKUP_NGRAM = 16  # tokens that a draft is looked up by: each size adds an entry per token
MAX_TOP_LOGPROBS = 20
MAX_PENALTY = 2.0  # of a presence or frequency penalty, as OpenAI limits them

# Bounds that keep float32 logits finite, whatever a request combines: a bias divided by the least
# penalty and the least temperature, 1024 times over, stays below 3.4e38. None limits any real use.
MIN_SCALE = 1e-6  # of what divides logits
MAX_SCALE = 1e6
MAX_BIAS = 1e20
MAX_LENGTH_POWER = 10.0  # a length raised to it, or divided by it, stays a finite float
MAX_GRAMMAR_CHARS = 65_536  # of a schema, regex, choice or grammar

# A grammar of structured outputs is compiled first in a process of its own, which may take this
# much. A stack this small leaves room for the same grammar on the stack of any thread.
MAX_GRAMMAR_CPU_S = 2
GRAMMAR_STACK_BYTES = 1 << 20
GRAMMAR_MEMORY_BYTES = 2 << 30
MAX_MASK_ITEMS = 5_000  # of the parser, for one mask: about 30 ms of a CPU
