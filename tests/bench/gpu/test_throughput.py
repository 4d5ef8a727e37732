"""The engines of the throughput benchmark are warmed up with prompts that are not timed."""

from bench.gpu.scale import PUBLISHED
from bench.gpu.throughput import BATCH_SIZE, warm_up_requests, workload


def test_the_warm_up_is_a_whole_batch_without_a_shared_prefix() -> None:
    warm_up = warm_up_requests(vocab_size=65024)
    timed = workload(65024, PUBLISHED)
    assert len(warm_up) == BATCH_SIZE < len(timed)
    beginnings = {tuple(request.prompt_ids[:4]) for request in warm_up}
    assert beginnings.isdisjoint(tuple(request.prompt_ids[:4]) for request in timed)
