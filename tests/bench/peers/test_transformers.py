"""`generate` as a peer: batches and padding do not change tokens."""

import pytest
from transformers import AutoModelForCausalLM

from bench.peers.exchange import PeerRequest
from bench.peers.transformers import generate_in_batches
from worker.model.checkpoint.tiny import bundled_checkpoint

REQUESTS = [
    PeerRequest([20, 21, 22, 23], 3),
    PeerRequest([30], 9),
    PeerRequest(list(range(40, 60)), 5),
]


@pytest.mark.parametrize("size", [2, 32])
def test_static_batches_have_the_tokens_of_single_requests(size: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(bundled_checkpoint())
    model.generation_config.eos_token_id = None
    alone = generate_in_batches(model, REQUESTS, 1)
    assert generate_in_batches(model, REQUESTS, size) == alone
    assert [len(token_ids) for token_ids in alone] == [3, 9, 5]
