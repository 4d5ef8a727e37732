"""How often quantized weights choose the token that float32 weights choose, text for text.

Comparing whole outputs would count everything after the first difference as wrong: here each
choice is made after the float32 run's own tokens.
"""

import random
from dataclasses import replace

from bench.workload import WorkItem


def choices_to_repeat(
    items: list[WorkItem], outputs: list[list[int]], *, per_request: int, seed: int = 0
) -> tuple[list[WorkItem], list[int]]:
    """Requests for one token each, at drawn places of the outputs, and the tokens expected."""
    draw = random.Random(seed)
    places = [
        (item, output[:cut], output[cut])
        for item, output in zip(items, outputs, strict=True)
        for cut in sorted(draw.sample(range(len(output)), min(per_request, len(output))))
    ]
    requests = [
        replace(
            item,
            prompt_ids=(item.prompt_ids or []) + made,
            generate_kwargs={**item.generate_kwargs, "max_new_tokens": 1},
        )
        for item, made, _ in places
    ]
    return requests, [expected for *_, expected in places]


def top1_agreement(outputs: list[list[int]], expected: list[int]) -> float:
    """Share of the choices that are the same."""
    pairs = zip(outputs, expected, strict=True)
    return sum(output == [token_id] for output, token_id in pairs) / len(expected)
