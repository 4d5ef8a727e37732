"""The `llm` command line tool with `extra-openai-models.yaml`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients.stock.calls import MODEL, WAIT_S, Calls, Target
from tests.clients.stock.chat import Wing

calls = Calls("llm")

GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "6")
MODELS = """
- model_id: falconer
  model_name: {model}
  api_base: {url}/v1
  api_key_name: falconer
  supports_schema: true
- model_id: falconer-text
  model_name: {model}
  api_base: {url}/v1
  api_key_name: falconer
  completion: true
"""


def llm(target: Target, *arguments: str) -> str:
    """Run `llm` of this interpreter's environment with a folder of its own."""
    (target.folder / "extra-openai-models.yaml").write_text(
        MODELS.format(model=MODEL, url=target.url)
    )
    (target.folder / "keys.json").write_text(json.dumps({"falconer": "none"}))
    done = subprocess.run(
        [Path(sys.executable).with_name("llm"), *arguments],
        env=os.environ | {"LLM_USER_PATH": str(target.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected(target: Target, **changes: Any) -> str:
    request = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    answer = target.openai.chat.completions.create(model=MODEL, max_tokens=6, **request | changes)
    return (answer.choices[0].message.content or "").strip()


@calls("llm models", "both models of the file")
def models(target: Target) -> None:
    assert "falconer-text" in llm(target, "models")


@calls("llm -m", "a stream")
def stream(target: Target) -> None:
    assert llm(target, "-m", "falconer", *GREEDY, "Hello").strip() == expected(target)


@calls("llm -m", "`--no-stream`")
def no_stream(target: Target) -> None:
    text = llm(target, "-m", "falconer", "--no-stream", *GREEDY, "Hello")
    assert text.strip() == expected(target)


@calls("llm -m", "a system prompt, with `-s`")
def system(target: Target) -> None:
    text = llm(target, "-m", "falconer", *GREEDY, "-s", "Be brief", "Hello")
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hello"},
    ]
    assert text.strip() == expected(target, messages=messages)


@calls("llm -m", "a completion model")
def completion(target: Target) -> None:
    text = target.openai.completions.create(
        model=MODEL, prompt="Hello", temperature=0, max_tokens=6
    )
    answer = llm(target, "-m", "falconer-text", *GREEDY, "Hello")
    assert answer.strip() == text.choices[0].text.strip()


@calls("llm -c", "the next turn of the conversation")
def conversation(target: Target) -> None:
    first = llm(target, "-m", "falconer", *GREEDY, "Hello").removesuffix("\n")
    second = llm(target, "-c", *GREEDY, "Bye")
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Bye"},
    ]
    assert second.strip() == expected(target, messages=messages)


@calls("llm --schema", "a JSON schema")
def schema(target: Target) -> None:
    options = ("-o", "temperature", "1.5", "-o", "seed", "1", "-o", "max_tokens", "300")
    form = json.dumps(Wing.model_json_schema())
    text = llm(target, "-m", "falconer", "--no-stream", "--schema", form, *options, "Hello")
    Wing.model_validate_json(text)
