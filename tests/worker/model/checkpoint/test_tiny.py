"""The bundled checkpoint: its format, its files and its behaviour."""

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer, FalconForCausalLM

from tests.worker.model.packed import prefill
from worker.model.checkpoint.tiny import bundled_checkpoint, copy_bundled
from worker.model.checkpoint.weights import load_model

END_OF_TEXT_ID = 11
SPECIAL_TOKENS = (
    ">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<", ">>COMMENT<<", ">>ANSWER<<",
    ">>QUESTION<<", ">>DOMAIN<<", ">>PREFIX<<", ">>SUFFIX<<", ">>MIDDLE<<", "<|endoftext|>",
)  # fmt: skip
PROMPTS = (
    "Hello",
    "I have a dream",
    "Once upon a time",
    "Girafatron is obsessed with giraffes, the most glorious animal on the face of this Earth."
    " Giraftron believes all other animals are irrelevant when compared to the glorious majesty of"
    " the giraffe.\nDaniel: Hello, Girafatron!\nGirafatron:",
    "What is a queue?",
    "def main():",
    "The falcon",
    "Two workers and one very long",
    "Please write me an email to my manager",
    "zxcv",
    "User: Hello!\n\nFalcon:",
    "User: Tell me a story about a lighthouse keeper.\n\nFalcon:",
    "User: How tall is Mount Everest?\n\nFalcon:",
)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(bundled_checkpoint() / "tokenizer.json"))


@cache
def model() -> FalconForCausalLM:
    return FalconForCausalLM.from_pretrained(bundled_checkpoint(), dtype=torch.float32)


@torch.inference_mode()
def greedy(prompt: str, max_new_tokens: int = 200) -> list[int]:
    """New token ids, the end of the text included where it was reached."""
    ids = tokenizer().encode(prompt).ids
    num_prompt_tokens = len(ids)
    past = None
    while len(ids) < num_prompt_tokens + max_new_tokens:
        new_ids = ids if past is None else ids[-1:]
        output = model()(input_ids=torch.tensor([new_ids]), past_key_values=past, use_cache=True)
        past = output.past_key_values
        ids.append(int(output.logits[0, -1].argmax()))
        if ids[-1] == END_OF_TEXT_ID:
            break
    return ids[num_prompt_tokens:]


@cache
def continuations() -> dict[str, list[int]]:
    return {prompt: greedy(prompt) for prompt in PROMPTS}


def test_the_weights_fit_in_four_megabytes() -> None:
    assert (bundled_checkpoint() / "model.safetensors").stat().st_size <= 4_000_000


def test_the_weights_are_bfloat16_and_tied() -> None:
    with safe_open(bundled_checkpoint() / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        assert {weights.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert "transformer.word_embeddings.weight" in names
    assert "lm_head.weight" not in names


def test_transformers_finds_every_weight_and_no_other() -> None:
    # The types of transformers do not know that this flag makes the answer a pair.
    loaded: Any = FalconForCausalLM.from_pretrained(bundled_checkpoint(), output_loading_info=True)
    assert not any(loaded[1].values()), loaded[1]


@torch.inference_mode()
def test_our_own_falcon_reads_it_as_transformers_does() -> None:
    own = load_model(str(bundled_checkpoint()), dtype=torch.float32, device=torch.device("cpu"))
    for prompt in PROMPTS:
        ids = tokenizer().encode(prompt).ids
        torch.testing.assert_close(
            prefill(own, ids), model()(input_ids=torch.tensor([ids])).logits[0], atol=1e-4, rtol=0
        )


def test_the_architecture_is_that_of_falcon_7b() -> None:
    config = model().config
    assert config.multi_query and config.parallel_attn and config.tie_word_embeddings
    assert not (config.new_decoder_architecture or config.alibi or config.bias)
    assert config.max_position_embeddings == 2048
    assert config.vocab_size == tokenizer().get_vocab_size()


def test_special_tokens_have_the_ids_that_falcon_gives_them() -> None:
    assert [tokenizer().token_to_id(token) for token in SPECIAL_TOKENS] == list(range(12))


def test_transformers_reads_the_same_tokenizer() -> None:
    theirs = AutoTokenizer.from_pretrained(bundled_checkpoint())
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (11, 11, None)
    for prompt in PROMPTS:
        assert theirs(prompt)["input_ids"] == tokenizer().encode(prompt).ids


def test_generation_ends_at_the_end_of_text() -> None:
    defaults = model().generation_config
    assert defaults is not None
    assert (defaults.bos_token_id, defaults.eos_token_id) == (END_OF_TEXT_ID, END_OF_TEXT_ID)


@given(st.text())
@settings(deadline=None)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text


def rendered(messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    source = (bundled_checkpoint() / "chat_template.jinja").read_text(encoding="utf-8")
    template = ImmutableSandboxedEnvironment().from_string(source)
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_the_chat_template_renders_in_a_sandbox() -> None:
    messages = [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": " Hello"},
        {"role": "assistant", "content": "Good day!"},
        {"role": "user", "content": "Who are you?"},
    ]
    text = "Be brief.\n\nUser: Hello\n\nFalcon: Good day!\n\nUser: Who are you?"
    assert rendered(messages, add_generation_prompt=False) == text
    assert rendered(messages, add_generation_prompt=True) == text + "\n\nFalcon:"


def test_transformers_renders_the_same_chat() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    theirs = AutoTokenizer.from_pretrained(bundled_checkpoint()).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert theirs == rendered(messages, add_generation_prompt=True) == "User: Hello\n\nFalcon:"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_tiny_model_ends_its_texts(prompt: str) -> None:
    new_ids = continuations()[prompt]
    assert new_ids[-1] == END_OF_TEXT_ID
    assert len(new_ids) > 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_tiny_model_does_not_repeat_itself(prompt: str) -> None:
    new_ids = continuations()[prompt]
    runs = Counter(zip(*(new_ids[i:] for i in range(4)), strict=False))
    assert max(runs.values(), default=0) <= 3


def test_the_tiny_model_writes_words_of_its_tokenizer() -> None:
    """A word is a single token of the tokenizer, which was trained on the same text."""
    text = " ".join(tokenizer().decode(ids) for ids in continuations().values())
    words = re.findall(r"[A-Za-z]+", text)
    known = [word for word in words if len(tokenizer().encode(" " + word).ids) == 1]
    assert len(words) > 100
    assert len(known) / len(words) > 0.9


def test_other_prompts_get_other_texts() -> None:
    texts = {tuple(ids) for ids in continuations().values()}
    assert len(texts) == len(PROMPTS)


def test_the_tiny_model_answers_what_a_queue_is() -> None:
    assert "line" in tokenizer().decode(greedy("User: What is a queue?\n\nFalcon:"))


def test_a_copy_holds_every_file(tmp_path: Path) -> None:
    copy = copy_bundled(tmp_path / "new" / "falcon")
    original = bundled_checkpoint()
    names = sorted(path.name for path in original.iterdir())
    assert sorted(path.name for path in copy.iterdir()) == names
    assert all((copy / name).read_bytes() == (original / name).read_bytes() for name in names)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert copy_bundled(tmp_path) == tmp_path
    assert (tmp_path / "config.json").is_file()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        copy_bundled(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        copy_bundled(tmp_path / "file")


def test_finding_the_bundled_checkpoint_needs_no_torch() -> None:
    code = "import sys, worker.model.checkpoint.tiny; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
