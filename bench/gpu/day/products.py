"""Measure the matrix products of a decoding step, alone and merged."""

import statistics
import time
from dataclasses import asdict, dataclass
from itertools import cycle, islice

import torch
from rich.table import Table

from bench.gpu.card import Card, synchronize
from bench.gpu.day.schedule import Result
from bench.gpu.scale import Scale, serving_dtype
from worker.model.config import ModelConfig

CACHE_BYTES = 2**28  # weights take turns beyond it: a smaller set would stay in the GPU's cache
MOST_COPIES = 64
ROUNDS = 5
MERGED_IN, MERGED_OUT = "qkv and h_to_4h", "dense and 4h_to_h"


@dataclass(frozen=True, slots=True)
class Product:
    model: str
    name: str
    num_rows: int
    seconds: float
    of_bandwidth: float  # of reading the weight once


def product_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each product of a layer, and of the head."""
    heads = config.num_kv_heads * config.num_heads_per_kv_head * config.head_dim
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    qkv = heads + 2 * config.num_kv_heads * config.head_dim
    return {
        "qkv": (hidden, qkv),
        "dense": (heads, hidden),
        "h_to_4h": (hidden, ffn),
        "4h_to_h": (ffn, hidden),
        MERGED_IN: (hidden, qkv + ffn),
        MERGED_OUT: (heads + ffn, hidden),
        "head": (hidden, config.vocab_size),
    }


@torch.inference_mode()
def measure_products(
    models: tuple[str, ...], rows: tuple[int, ...], scale: Scale, card: Card, device: torch.device
) -> Result:
    """Measure each product at each number of rows."""
    products = []
    for like in models:
        for name, (inputs, outputs) in product_shapes(scale.model_config(like)).items():
            weights = _weights(inputs, outputs, scale, device)
            num_bytes = weights[0].nbytes
            for num_rows in rows:
                x = torch.randn(num_rows, inputs, device=device).to(weights[0].dtype)
                seconds = _product_s(x, weights, device)
                share = num_bytes / seconds / card.bytes_per_s
                products.append(Product(like, name, num_rows, seconds, share))
    return Result([asdict(product) for product in products], [_table(products, rows)])


def _weights(inputs: int, outputs: int, scale: Scale, device: torch.device) -> list[torch.Tensor]:
    dtype = serving_dtype(device)
    copies = -(-CACHE_BYTES // (inputs * outputs * dtype.itemsize)) if scale.full_size else 2
    shape = (outputs, inputs)
    return [
        torch.empty(shape, dtype=dtype, device=device).normal_(std=0.02)
        for _ in range(min(MOST_COPIES, 1 + copies))
    ]


def _product_s(x: torch.Tensor, weights: list[torch.Tensor], device: torch.device) -> float:
    """Return the seconds of one product among many in a row, the median of a few rounds."""
    count = max(20, len(weights))
    times = []
    for _ in range(1 + ROUNDS):
        synchronize(device)
        started = time.perf_counter()
        for weight in islice(cycle(weights), count):
            x @ weight.T
        synchronize(device)
        times.append((time.perf_counter() - started) / count)
    return statistics.median(times[1:])  # the first loads kernels


def _table(products: list[Product], rows: tuple[int, ...]) -> Table:
    table = Table("product", "weights", *(f"{n} rows" for n in rows), box=None)
    names = dict.fromkeys((product.model, product.name) for product in products)
    for model, name in names:
        own = [p for p in products if (p.model, p.name) == (model, name)]
        cells = (f"{1e6 * p.seconds:.0f} us {p.of_bandwidth:.0%}" for p in own)
        table.add_row(model, name, *cells)
    return table
