"""`falconer chat` and `falconer jobs` against a running service."""

import json
import os
import subprocess
import sys

import pytest

from tests.terminal import PATIENCE_S, terminal

pytestmark = pytest.mark.integration

SHORT = ("--greedy", "--max-new-tokens", "20")
QUESTION = "What is a falcon?"
ANSWER = "A falcon is a bird of prey with long wings and very good eyes. The"
FALCONER = (sys.executable, "-m", "falconer")


def run(url: str, *words: str, stdin: str = "", code: int = 0) -> str:
    """Run a command with stdin from a pipe; return what it printed on stdout, or as its error."""
    done = subprocess.run(
        [*FALCONER, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=os.environ | {"FALCONER_URL": url},
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def submit(url: str, *, endless: bool = False) -> str:
    """Submit a job by the library, and return its id."""
    from falconer import Client

    kwargs = {"eos_token_id": None} if endless else {"do_sample": False, "max_new_tokens": 7}
    with Client(url) as client:
        return client.submit("Hello", fill_context=endless, generate_kwargs=kwargs).id


def test_chat_answers_its_argument_or_stdin(url: str) -> None:
    assert run(url, "chat", QUESTION, *SHORT) == f"{ANSWER}\n"
    assert run(url, "chat", *SHORT, stdin=QUESTION) == f"{ANSWER}\n"
    nowhere = "http://127.0.0.1:9"
    assert run(nowhere, "chat", QUESTION, "--url", url, *SHORT) == f"{ANSWER}\n"


def test_chat_prints_the_whole_result_as_json(url: str) -> None:
    result = json.loads(run(url, "chat", QUESTION, *SHORT, "--json"))
    assert result["Result"].strip() == ANSWER
    assert result["usage"]["completion_tokens"] == 20


def test_a_system_message_and_a_seed_reach_the_service(url: str) -> None:
    words = ("chat", QUESTION, "--max-new-tokens", "7", "--seed", "3", "--json")
    plain = json.loads(run(url, *words))
    assert plain["seed"] == 3
    longer = json.loads(run(url, *words, "--system", "You answer in verse."))
    assert longer["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_a_refused_request_is_one_line_and_exit_code_two(url: str) -> None:
    error = run(url, "chat", QUESTION, "--model", "another", code=2)
    assert error.startswith("falconer: ")
    assert "another" in error
    assert error.count("\n") == 1
    assert "url" in run("localhost", "jobs", "list", code=2)


def test_jobs_are_listed_shown_and_followed(url: str) -> None:
    job_id = submit(url)
    assert run(url, "jobs", "follow", job_id) == "! I am a small falcon.\n"
    *deltas, info = [
        json.loads(s) for s in run(url, "jobs", "follow", job_id, "--json").split("\n")[:-1]
    ]
    assert "".join(delta["text"] for delta in deltas) == info["result"]["sequences"][0]["text"]
    shown = run(url, "jobs", "show", job_id)
    assert "status: succeeded\n" in shown
    assert shown.endswith("\n! I am a small falcon.\n")
    assert json.loads(run(url, "jobs", "show", job_id, "--json")) == info
    assert run(url, "jobs", "list", "--limit", "1").startswith(f"{job_id}  succeeded  ")
    [line] = run(url, "jobs", "list", "--limit", "1", "--json").splitlines()
    assert json.loads(line)["id"] == job_id


def test_a_job_is_cancelled_and_retried(url: str) -> None:
    job_id = submit(url, endless=True)
    assert run(url, "jobs", "cancel", job_id).startswith(job_id)
    assert f"falconer: job {job_id} was cancelled" in run(url, "jobs", "follow", job_id, code=2)
    retried = json.loads(run(url, "jobs", "retry", job_id, "--json"))
    assert retried["retry_of"] == job_id
    run(url, "jobs", "cancel", retried["id"])
    assert "falconer: " in run(url, "jobs", "show", "0" * 32, code=2)


def test_a_conversation_on_a_terminal_keeps_its_history(url: str) -> None:
    with terminal("chat", "--url", url, *SHORT) as screen:
        screen.wait_for("> ")
        screen.type(f"{QUESTION}\n")
        screen.wait_for(ANSWER)
        screen.wait_for("> ")
        screen.type("And an owl?\n")
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.process.wait(PATIENCE_S) == 0
    jobs = [json.loads(s) for s in run(url, "jobs", "list", "--json", "--limit", "2").splitlines()]
    second, first = [json.loads(run(url, "jobs", "show", job["id"], "--json")) for job in jobs]
    used = [job["result"]["usage"]["prompt_tokens"] for job in (first, second)]
    assert used[1] > used[0] + 7  # the question, the answer and the second question
