"""Sort and search the columns of score matrices.

On CPUs by numpy, where torch takes several times as long on rows of 65,024: torch sorts values
together with their indices, and compares and finds true values without vector instructions.
"""

import numpy as np
import torch

_INDEX_BITS = 32


def ascending(values: torch.Tensor) -> torch.Tensor:
    """Sort the values of each row, [n, width]; nan comes last."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1))


def kth_best(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the score of each row that at least `counts` int64 [n, 1] columns reach, [n, 1]."""
    if counts.device.type == "cpu" and int(counts.max()) == 1:  # a GPU would make the host wait
        return scores.amax(dim=-1, keepdim=True)
    return ascending(scores).gather(-1, scores.shape[1] - counts)


def best_columns(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best score of each row and its first column, int64, [n] each; nan is the best."""
    if scores.device.type != "cpu":
        best, columns = scores.max(dim=-1)
        return best, columns
    values = scores.numpy()
    found = values.argmax(axis=-1)
    return torch.from_numpy(values[np.arange(len(found)), found]), torch.from_numpy(found)


def below(values: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """Return `values < floor`, bool [n, width]; either matrix may be a column [n, 1]."""
    if values.device.type != "cpu":
        return values < floor
    return torch.from_numpy(values.numpy() < floor.numpy())


def order_of_distances(distances: torch.Tensor) -> torch.Tensor:
    """Sort the columns of each row by distance, then by column; int64 [n, width].

    `distances` are float32 and not negative: their bits sort like integers, so one integer holds a
    distance and its column.
    """
    keys = distances.view(torch.int32).long().bitwise_left_shift_(_INDEX_BITS)
    keys |= torch.arange(distances.shape[1], device=distances.device)
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=-1)
    else:
        keys = keys.sort(dim=-1).values
    return keys.bitwise_and_((1 << _INDEX_BITS) - 1)


def indices_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns, int64 [k] each, of the true values in bool `mask` [n, width]."""
    if mask.device.type != "cpu":
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    return flat // mask.shape[1], flat % mask.shape[1]
