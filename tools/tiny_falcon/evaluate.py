"""Figures and samples of a tiny checkpoint, for its model card.

    python -m tools.tiny_falcon.evaluate [DIRECTORY]

Needs the `worker` extra, and about two minutes on one core.
"""

import argparse
import math
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, FalconForCausalLM, PreTrainedTokenizerBase

from tools.tiny_falcon.corpus import (
    CAPITALS,
    TOPICS,
    TRAINING_SEED,
    Document,
    Segment,
    Turn,
    documents,
    heldout,
    heldout_tales,
    text_of,
)
from tools.tiny_falcon.prompts import CHAT, PLAIN
from tools.tiny_falcon.tokenizer import END_OF_TEXT_ID
from tools.tiny_falcon.train import HELDOUT_DOCUMENTS, mean_loss
from worker.model.checkpoint.tiny import bundled_checkpoint

MAX_NEW_TOKENS = 200
REPEATED_NGRAM = 4
MAX_REPEATS = 3
HELDOUT_TALES = 200
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and its continuation."""

    prompt: str
    text: str
    token_ids: tuple[int, ...]

    @property
    def stopped(self) -> bool:
        return self.token_ids[-1] == END_OF_TEXT_ID

    @property
    def loops(self) -> bool:
        """Return whether a run of four tokens occurs more than three times."""
        ids = self.token_ids
        runs = list(zip(*(ids[i:] for i in range(REPEATED_NGRAM)), strict=False))
        return any(runs.count(run) > MAX_REPEATS for run in set(runs))


def rendered_prompts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    chats = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )
        for content in CHAT
    ]
    return [*PLAIN, *chats]


@torch.inference_mode()
def generate(
    model: FalconForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str, *, sampled: bool
) -> Sample:
    inputs = tokenizer(prompt, return_tensors="pt")
    options = {"top_k": 10, "temperature": 1.0} if sampled else {"top_k": None}
    # transformers types `generate` for a protocol that its own models do not implement.
    output = cast(Any, model).generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=sampled,
        max_new_tokens=MAX_NEW_TOKENS,
        pad_token_id=END_OF_TEXT_ID,
        **options,
    )
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()
    return Sample(prompt, str(tokenizer.decode(ids, skip_special_tokens=True)), tuple(ids))


def print_perplexity(model: FalconForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    tales: list[Document] = [(Segment(tale),) for tale in heldout_tales(HELDOUT_TALES)]
    texts = {"held-out documents": heldout(HELDOUT_DOCUMENTS), "heldout.txt": tales}
    for name, texts_of_kind in texts.items():
        nats = mean_loss(model, tokenizer.backend_tokenizer, texts_of_kind)
        print(f"{name}: {nats:.4f} nats per token, perplexity {math.exp(nats):.3f}")


def quiz() -> dict[str, list[Turn]]:
    """Return questions whose correct answers begin alike."""
    return {
        "topics": [(f"What is a {topic.word}?", topic.is_a) for topic in TOPICS],
        "capitals": [(f"What is the capital of {land}?", city) for land, city in CAPITALS],
        "sums": [(f"What is {a} + {b}?", f"is {a + b}.") for a in range(10) for b in range(10)],
    }


def print_recall(model: FalconForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Print the share of the corpus' questions that a greedy chat answers correctly."""
    for name, turns in quiz().items():
        replies = [
            generate(model, tokenizer, f"User: {question}\n\nFalcon:", sampled=False).text
            for question, _ in turns
        ]
        right = sum(answer in reply for (_, answer), reply in zip(turns, replies, strict=True))
        print(f"{name}: {right} of {len(turns)} right")


def known_words(num_documents: int = 20_000) -> set[str]:
    """Return every word of the corpus in lower case."""
    stream = islice(documents(TRAINING_SEED), num_documents)
    return {word for document in stream for word in _WORD.findall(text_of(document).lower())}


def word_share(samples: list[Sample], words: set[str]) -> float:
    """Return the share of generated words that the corpus or the sample's own prompt contains."""
    known = total = 0
    for sample in samples:
        allowed = words | set(_WORD.findall(sample.prompt.lower()))
        written = _WORD.findall(sample.text.lower())
        known += sum(word in allowed for word in written)
        total += len(written)
    return known / max(1, total)


def report(name: str, samples: list[Sample], words: set[str]) -> str:
    """Print a row of the model card's table."""
    lengths = sorted(len(sample.token_ids) for sample in samples)
    count = len(samples)
    return " | ".join(
        (
            f"| {name}",
            f"{sum(sample.stopped for sample in samples) / count:.0%}",
            f"{lengths[count // 10]}, {lengths[count // 2]}, {lengths[count * 9 // 10]}",
            f"{sum(sample.loops for sample in samples) / count:.1%}",
            f"{len({sample.text for sample in samples}) / count:.0%}",
            f"{word_share(samples, words):.1%} |",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path, nargs="?", default=bundled_checkpoint())
    directory = parser.parse_args().directory
    torch.set_num_threads(1)
    torch.manual_seed(TRAINING_SEED)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = FalconForCausalLM.from_pretrained(directory, dtype=torch.float32)
    print_perplexity(model, tokenizer)
    print_recall(model, tokenizer)
    words = known_words()
    print("| decoding | stops | tokens (p10, p50, p90) | loops | distinct | known words |")
    print("| --- | --- | --- | --- | --- | --- |")
    for sampled in (False, True):
        samples = [
            generate(model, tokenizer, prompt, sampled=sampled)
            for prompt in rendered_prompts(tokenizer)
        ]
        print(report("top_k 10, T 1" if sampled else "greedy", samples, words), flush=True)
        for sample in samples:
            print(f"  {sample.prompt[-60:]!r} →{sample.text!r}")


if __name__ == "__main__":
    main()
