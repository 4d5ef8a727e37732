"""Where the layers of the published models go, by arithmetic alone."""

import pytest
import torch

from worker.engine import EngineConfig
from worker.engine.loading.spreading import spread
from worker.model.checkpoint.random_checkpoint import config_fields
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap

GIB = 2**30
FULL_ROWS = 32 * 2048 // 32  # blocks: what 32 rows of the whole context need

pytestmark = pytest.mark.filterwarnings("error")


def published(like: str) -> ModelConfig:
    return ModelConfig.from_dict(config_fields(like, full_size=True))


def place(like: str, *gibs: int, config: EngineConfig | None = None) -> tuple[list[int], int]:
    """How many layers each GPU gets, and the number of blocks."""
    device_map, num_blocks = spread(
        published(like),
        config or EngineConfig(),
        dtype=torch.bfloat16,
        free_bytes=[gib * GIB for gib in gibs],
    )
    assert device_map.main == torch.device("cuda:0")
    layers = [device_map.of_layer(layer).index for layer in range(published(like).num_layers)]
    assert layers == sorted(layers), "each boundary is crossed once"
    return [layers.count(gpu) for gpu in range(len(gibs))], num_blocks


@pytest.mark.parametrize(
    ("like", "gibs", "layers"),
    [
        ("7b", [80], [32]),  # 14 GB of weights
        ("7b", [24, 24], [32, 0]),
        ("7b", [8, 10], [14, 18]),
        ("40b", [80, 80], [54, 6]),  # 83 GB
        ("40b", [24, 24, 24, 24], [14, 16, 16, 14]),
        ("rw", [80], [24]),
    ],
)
def test_gpus_are_filled_in_their_order(like: str, gibs: list[int], layers: list[int]) -> None:
    assert place(like, *gibs) == (layers, FULL_ROWS)


@pytest.mark.parametrize(("like", "gibs"), [("40b", [80]), ("40b", [44, 42]), ("7b", [8, 8])])
def test_each_gpu_holds_its_layers_with_their_share_of_the_kv_cache(
    like: str, gibs: list[int]
) -> None:
    """As many blocks as fit beside a GiB for activations: one more would not."""
    many = EngineConfig(max_rows=10**4, max_step_tokens=10**4)
    layers, num_blocks = place(like, *gibs, config=many)
    model = published(like)
    per_token = model.kv_bytes_per_token(torch.bfloat16) // model.num_layers
    embeddings = 2 * (model.vocab_size + 2) * model.hidden_size
    weights = (2 * model.num_parameters - embeddings) // model.num_layers
    room = [(gib - 1) * GIB for gib in gibs]
    room[0] -= embeddings

    def fits(blocks: int) -> bool:
        size = weights + int(per_token * 32 / 0.85) * blocks
        first, *others = (gpu // size for gpu in room)
        # Where layers are left, accelerate keeps room for one more on the first GPU.
        return first >= model.num_layers or first - 1 + sum(others) >= model.num_layers

    assert sum(layers) == model.num_layers
    assert fits(num_blocks)
    assert not fits(num_blocks + 1)


def test_a_given_number_of_blocks_is_taken_as_it_is() -> None:
    assert place("7b", 24, 24, config=EngineConfig(num_blocks=7)) == ([32, 0], 7)


@pytest.mark.parametrize(
    ("like", "gibs", "missing"),
    [
        ("40b", [24, 24], "32.9"),
        ("7b", [1, 8], "6.0"),
        ("7b", [1], "12.9"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_missing(
    like: str, gibs: list[int], missing: str
) -> None:
    words = rf"do not fit on {len(gibs)} GPU\(s\): {missing} GiB are missing"
    with pytest.raises(ValueError, match=words):
        place(like, *gibs)


def test_a_map_tells_the_device_of_every_parameter() -> None:
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    device_map = DeviceMap(first, {range(1, 12): second})
    for name, device in (
        ("transformer.word_embeddings.weight", first),
        ("transformer.h.0.mlp.dense_h_to_4h.weight", first),
        ("transformer.h.1.mlp.dense_h_to_4h.weight", second),
        ("transformer.h.11.input_layernorm.bias", second),
        ("transformer.ln_f.weight", first),
        ("lm_head.weight", first),
    ):
        assert device_map.of_parameter(name) == device
