"""Plain curl, as the examples of the documentation run it."""

import json
import shutil
import subprocess
from typing import Any

from tests.clients.stock.calls import HELLO, MODEL, WAIT_S, Calls, Target

calls = Calls("curl")

CURL = shutil.which("curl")
TEXT: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "max_tokens": 4, "temperature": 0}
CHAT: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 4, "temperature": 0}
RESPONSE: dict[str, Any] = {"model": MODEL, "input": "Hello", "max_output_tokens": 4}


def curl(target: Target, path: str, *options: str, body: Any = None) -> str:
    sent = [] if body is None else ["--json", json.dumps(body)]
    command = [str(CURL), "-sS", "--noproxy", "*", *options, *sent, target.url + path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@calls("GET /v1/models", "the model")
def models(target: Target) -> None:
    assert json.loads(curl(target, "/v1/models"))["data"][0]["id"] == MODEL


@calls("POST /v1/completions", "a text")
def completion(target: Target) -> None:
    answer = json.loads(curl(target, "/v1/completions", body=TEXT))
    assert answer["usage"]["completion_tokens"] == 4


@calls("POST /v1/completions", "a stream, with `-N`")
def completion_stream(target: Target) -> None:
    lines = curl(target, "/v1/completions", "-N", body=TEXT | {"stream": True}).splitlines()
    assert [line for line in lines if line][-1] == "data: [DONE]"


@calls("POST /v1/chat/completions", "a conversation, with the headers of the answer")
def chat(target: Target) -> None:
    head, _, body = curl(target, "/v1/chat/completions", "-i", body=CHAT).partition("\n\n")
    job_id = json.loads(body)["id"].removeprefix("chatcmpl-")
    assert f"location: /jobs/{job_id}" in head.lower()


@calls("POST /v1/chat/completions", "a compressed body")
def compressed(target: Target) -> None:
    import gzip

    file = target.folder / "body.json.gz"
    file.write_bytes(gzip.compress(json.dumps(CHAT).encode()))
    headers = ("-H", "Content-Encoding: gzip", "-H", "Content-Type: application/json")
    answer = curl(target, "/v1/chat/completions", *headers, "--data-binary", f"@{file}")
    assert json.loads(answer)["object"] == "chat.completion"


@calls("POST /v1/chat/completions", "an error, with its status")
def refusal(target: Target) -> None:
    body = CHAT | {"audio": {}}
    answer = curl(target, "/v1/chat/completions", "-w", "\n%{http_code}", body=body)
    error, status = answer.rsplit("\n", 1)
    assert (status, json.loads(error)["error"]["param"]) == ("400", "audio")


@calls("POST /v1/responses", "a response in the background, polled and resumed")
def response(target: Target) -> None:
    body = RESPONSE | {"background": True, "stream": True}
    events = curl(target, "/v1/responses", "-N", body=body)
    first = next(line for line in events.splitlines() if line.startswith("data: "))
    path = f"/v1/responses/{json.loads(first.removeprefix('data: '))['response']['id']}"
    assert json.loads(curl(target, path))["status"] == "incomplete"
    rest = curl(target, f"{path}?stream=true&starting_after=4")
    assert rest and events.endswith(rest)


@calls("POST /v1/files", "a file, as a form")
def upload(target: Target) -> None:
    file = target.folder / "lines.jsonl"
    file.write_text(json.dumps({"custom_id": "a", "body": TEXT}))
    answer = curl(target, "/v1/files", "-F", "purpose=batch", "-F", f"file=@{file}")
    path = f"/v1/files/{json.loads(answer)['id']}"
    assert curl(target, f"{path}/content") == file.read_text()
    assert json.loads(curl(target, path, "-X", "DELETE"))["deleted"]


@calls("POST /v1/batches", "`requests`, to the results")
def batch(target: Target) -> None:
    requests = [{"custom_id": "a", "body": TEXT}]
    body = {"requests": requests, "endpoint": "/v1/completions", "completion_window": "1h"}
    path = f"/v1/batches/{json.loads(curl(target, '/v1/batches', body=body))['id']}"
    target.wait(lambda: json.loads(curl(target, path))["status"] == "completed")
    output = json.loads(curl(target, path))["output_file_id"]
    line = json.loads(curl(target, f"/v1/files/{output}/content"))
    assert line["response"]["body"]["choices"][0]["finish_reason"] == "length"


@calls("POST /tokenize", "a text and back")
def tokenize(target: Target) -> None:
    answer = json.loads(curl(target, "/tokenize", body={"model": MODEL, "prompt": "Hello"}))
    back = curl(target, "/detokenize", body={"model": MODEL, "tokens": answer["tokens"]})
    assert json.loads(back)["prompt"].endswith("Hello")
