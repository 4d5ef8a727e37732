"""Top-1 agreement after the float32 model's own tokens."""

from bench.peers.comparison import choices_to_repeat, top1_agreement
from bench.workloads import WorkItem


def test_each_token_is_chosen_after_the_tokens_before_it() -> None:
    item = WorkItem(prompt_ids=[1, 2], generate_kwargs={"do_sample": False, "max_new_tokens": 4})
    requests, expected = choices_to_repeat([item], [[10, 11, 12, 13]], per_request=4)
    assert [request.prompt_ids for request in requests] == [
        [1, 2],
        [1, 2, 10],
        [1, 2, 10, 11],
        [1, 2, 10, 11, 12],
    ]
    assert expected == [10, 11, 12, 13]
    assert requests[0].generate_kwargs == {"do_sample": False, "max_new_tokens": 1}


def test_short_outputs_have_fewer_requests() -> None:
    item = WorkItem(prompt_ids=[1])
    requests, expected = choices_to_repeat([item, item], [[5], [6, 7, 8]], per_request=2)
    assert len(requests) == len(expected) == 3
    assert expected[0] == 5


def test_agreement_is_the_share_of_equal_tokens() -> None:
    assert top1_agreement([[1], [2], [3], [4]], [1, 2, 0, 4]) == 0.75
