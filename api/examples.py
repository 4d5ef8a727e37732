"""Example requests and an example response for the OpenAPI document."""

from typing import Any

PROMPT_ONLY: dict[str, Any] = {"prompt": "Once upon a time there was a falcon who"}
ALL_PARAMETERS: dict[str, Any] = {
    "prompt": "Once upon a time there was a falcon who",
    "return_full_text": False,
    "clean_up_tokenization_spaces": False,
    "prefix": None,
    "handle_long_generation": None,
    "generate_kwargs": {
        "max_length": 200,
        "min_length": 0,
        "do_sample": True,
        "early_stopping": False,
        "num_beams": 1,
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
        "temperature": 1.0,
        "top_k": 10,
        "top_p": 1,
        "typical_p": 1,
        "repetition_penalty": 1,
        "length_penalty": 1,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "bad_words_ids": None,
        "num_return_sequences": 1,
        "output_scores": False,
        "return_dict_in_generate": False,
        "pad_token_id": None,
        "eos_token_id": None,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "remove_invalid_values": None,
    },
}

CONVERSATION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is a falcon?"}],
    "generate_kwargs": {"do_sample": False, "max_new_tokens": 60},
}

# Requests below `/v1`.
CHAT_COMPLETION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is a falcon?"}],
    "max_tokens": 60,
    "temperature": 0,
}
COMPLETION: dict[str, Any] = {"prompt": "Once upon a time there was", "max_tokens": 40}

RESPONSE: dict[str, Any] = {
    "input": "What is a falcon?",
    "max_output_tokens": 60,
    "temperature": 0,
}

BATCH: dict[str, Any] = {
    "requests": [{"custom_id": "first", "body": CHAT_COMPLETION}],
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}

# Named examples of OpenAPI.
REQUESTS: dict[str, dict[str, Any]] = {
    "prompt": {"summary": "A prompt to continue", "value": PROMPT_ONLY},
    "conversation": {"summary": "A conversation to answer", "value": CONVERSATION},
    "all parameters": {
        "summary": "All parameters of a Falcon preset; no eos token: runs to max_length",
        "value": ALL_PARAMETERS,
    },
}

ANSWER: dict[str, Any] = {
    "Result": " A falcon is a bird of prey with long wings and very good eyes.",
    "id": "5f0c2a3e9d4b4c0f8f3a1b2c3d4e5f60",
    "sequences": [
        {
            "text": " A falcon is a bird of prey with long wings and very good eyes.",
            "finish_reason": "stop",
            "token_count": 20,
        }
    ],
    "usage": {"prompt_tokens": 14, "completion_tokens": 20, "total_tokens": 34},
    "seed": 2611225895,
}
