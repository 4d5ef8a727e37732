"""Records diverse beam searches of transformers 4.37, the last version with them.

Runs in an environment of its own and imports nothing of this project. In the project's root:

    for style in 7b 40b rw; do falconer model random checkpoints/$style --like $style; done
    python3.11 -m venv recorder
    recorder/bin/pip install torch==2.13.0 "numpy<2" transformers==4.37.2
    recorder/bin/python tests/worker/engine/beam/record_diverse_beams.py checkpoints \\
        > tests/worker/engine/beam/fixtures/diverse_beams.json
"""

import json
import sys
import warnings
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import FalconForCausalLM, logging

VOCAB_SIZE = 512
END_OF_TEXT_ID = 11
CASES_PER_STYLE = 40

Fields = dict[str, Any]


def main(checkpoints: Path) -> None:
    silent: Any = logging  # untyped
    silent.set_verbosity_error()
    warnings.simplefilter("ignore")  # impossible lengths are requested on purpose
    torch.set_num_threads(1)
    random = Random(437)
    cases = [
        record(load(checkpoints / style), style, random)
        for style in ("7b", "40b", "rw")
        for _ in range(CASES_PER_STYLE)
    ]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    print(f"[\n{lines}\n]")


def load(checkpoint: Path) -> Any:
    model_class: Any = FalconForCausalLM  # untyped
    model = model_class.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model


def record(model: Any, style: str, random: Random) -> Fields:
    """Return a prompt, fields of SamplingParams, and the results, best first."""
    palette = random.sample(range(VOCAB_SIZE), 6)  # few distinct tokens, so that n-grams repeat
    prompt = random.choices(palette, k=random.randint(1, 16))
    # Groups that are done continue with pads; a pad that other groups want shows in the result.
    likely = generate(model, prompt, {"max_new_tokens": 12}).sequences[0, len(prompt) :].tolist()
    pad = random.choice([None, *likely])
    params = {**groups(random), "pad_token_id": pad, **others(random)}
    output = generate(model, prompt, to_generate_kwargs(params))
    rows = output.sequences[:, len(prompt) :].tolist()
    return {
        "style": style,
        "prompt": prompt,
        "params": params,
        "token_ids": [without_padding(row, params["eos_token_ids"]) for row in rows],
        "scores": output.sequences_scores.tolist(),
    }


def generate(model: Any, prompt: list[int], kwargs: Fields) -> Any:
    return model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        return_dict_in_generate=True,
        output_scores=True,
        **kwargs,
    )


def without_padding(row: list[int], eos_token_ids: list[int]) -> list[int]:
    """Up to the first eos: beams end with it. `beam_indices` are wrong in 4.37."""
    end = next((index for index, token_id in enumerate(row) if token_id in eos_token_ids), len(row))
    return row[: end + 1]


def groups(random: Random) -> Fields:
    num_groups = random.choice([2, 2, 3, 4])
    num_beams = num_groups * random.randint(1, 3)
    return {
        "num_beams": num_beams,
        "num_beam_groups": num_groups,
        "num_return_sequences": random.randint(1, num_beams),
        "diversity_penalty": random.choice([0.2, 1.0, 3.0, 50.0]),
        "early_stopping": random.choice([False, True, "never"]),
        "length_penalty": random.choice([1.0, 1.0, 0.0, 2.0, -1.0]),
        "max_new_tokens": random.randint(1, 12),
    }


def others(random: Random) -> Fields:
    """One eos, or none, or so many that groups end early; and up to three processors."""
    eos = random.choice([[END_OF_TEXT_ID], [], ids(random, 60), ids(random, 200)])
    options = {
        "sequence_bias": [
            [ids(random, random.randint(1, 2)), round(random.uniform(-9, 9), 3)] for _ in range(8)
        ],
        "min_new_tokens": random.randint(1, 8),
        "repetition_penalty": random.choice([0.6, 1.3, 4.0]),
        "no_repeat_ngram_size": random.randint(1, 3),
        "encoder_no_repeat_ngram_size": random.randint(1, 3),
        "bad_words_ids": [ids(random, random.randint(1, 2)) for _ in range(8)],
        "suppress_tokens": ids(random, 30),
        "begin_suppress_tokens": ids(random, 100),
        "forced_bos_token_id": VOCAB_SIZE - 1,
        "forced_eos_token_ids": [END_OF_TEXT_ID],
        "renormalize_logits": True,
        "remove_invalid_values": True,
    }
    if eos:
        options["exponential_decay_length_penalty"] = [random.randint(0, 4), 1.4]
    chosen = random.sample(sorted(options), k=random.randint(0, 3))
    return {"eos_token_ids": eos} | {name: options[name] for name in chosen}


def ids(random: Random, count: int) -> list[int]:
    return random.sample(range(VOCAB_SIZE), count)


def to_generate_kwargs(params: Fields) -> Fields:
    kwargs = dict(params)
    for name in ("eos_token_id", "forced_eos_token_id"):
        kwargs[name] = kwargs.pop(f"{name}s", None) or None
    if "sequence_bias" in kwargs:
        kwargs["sequence_bias"] = {tuple(word): bias for word, bias in kwargs["sequence_bias"]}
    return kwargs


if __name__ == "__main__":
    main(Path(sys.argv[1]))
