"""What a stream leaves out of a job that ran again."""

from api.repeats import Repeats
from shared.protocol import Delta


def told(repeats: Repeats, *pieces: str, attempt: int = 1, first_index: int = 0) -> list[str]:
    """The new ones of `pieces`, which a run tells in this order; "1b" is of sequence 1."""
    deltas = [
        Delta(
            job_id="j", attempt=attempt, index=i, sequence=int(piece[0]), text=piece, token_ids=[]
        )
        for i, piece in enumerate(pieces, start=first_index)
    ]
    return [delta.text for delta in deltas if repeats.is_new(delta)]


def test_all_of_a_first_run_is_new() -> None:
    assert told(Repeats(), "0a", "1a", "0b", "1b") == ["0a", "1a", "0b", "1b"]


def test_another_run_may_mix_the_sequences_in_another_way() -> None:
    repeats = Repeats()
    told(repeats, "0a", "0b", "1a")
    again = told(repeats, "0a", "1a", "0b", "1b", "0c", "1c", attempt=2)
    assert again == ["1b", "0c", "1c"]


def test_a_job_that_was_handed_back_runs_again_as_the_same_attempt() -> None:
    repeats = Repeats()
    told(repeats, "0a", "0b")
    assert told(repeats, "0a", "0b", "0c") == ["0c"]


def test_two_runs_at_once_tell_each_piece_once() -> None:
    """A frozen worker thaws while another has its job already."""
    repeats = Repeats()
    told(repeats, "0a", "0b")
    assert told(repeats, "0a", "0b", "0c", attempt=2) == ["0c"]
    assert told(repeats, "0c", "0d", first_index=2) == ["0d"]
    assert told(repeats, "0d", "0e", attempt=2, first_index=3) == ["0e"]


def test_a_stream_that_joined_late_hears_a_single_sequence_without_repeats() -> None:
    repeats = Repeats()
    assert told(repeats, "0c", "0d", first_index=2) == ["0c", "0d"]
    assert told(repeats, "0a", "0b", "0c", "0d", "0e", attempt=2) == ["0e"]
