"""The tiny Falcon's tokenizer: byte-level BPE with Falcon's special tokens, trained on the corpus.

Its files can be loaded by transformers' `AutoTokenizer`.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.tiny_falcon.corpus import TRAINING_SEED, documents

# In the order of tiiuae/falcon-7b, where they have ids 0 to 11.
SPECIAL_TOKENS = (
    ">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<", ">>COMMENT<<", ">>ANSWER<<",
    ">>QUESTION<<", ">>DOMAIN<<", ">>PREFIX<<", ">>SUFFIX<<", ">>MIDDLE<<", "<|endoftext|>",
)  # fmt: skip
END_OF_TEXT_ID = 11
VOCAB_SIZE = 2048
MAX_LENGTH = 2048

# Roles as in the prompts of Falcon's instruct models. A system message comes first, without a role.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message['role'] == 'system' %}{{ message['content'] | trim }}
{%- elif message['role'] == 'user' %}{{ 'User: ' + message['content'] | trim }}
{%- else %}{{ 'Falcon: ' + message['content'] | trim }}
{%- endif %}
{%- if not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Falcon:' }}{% endif %}"""


def _learned_texts(count: int) -> Iterator[str]:
    """Yield texts without noise, so that the vocabulary has the words that the model writes."""
    for document in islice(documents(TRAINING_SEED), count):
        yield from (segment.text for segment in document if segment.learned)


def train_tokenizer(num_documents: int = 40_000) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_learned_texts(num_documents), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    end_of_text = SPECIAL_TOKENS[END_OF_TEXT_ID]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    config_text = json.dumps(config, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(config_text, encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
