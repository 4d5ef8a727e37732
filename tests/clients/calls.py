"""The request of every client, and checks of the responses that the client reports."""

import json
from collections import defaultdict

REQUEST = {
    "prompt": "Once upon a time",
    "return_full_text": False,
    "generate_kwargs": {"do_sample": False, "max_new_tokens": 16},
}
Report = dict[str, list[str]]


def parse_report(text: str) -> Report:
    """Parse lines of a name, a tab and a text."""
    report: Report = defaultdict(list)
    for line in text.splitlines():
        name, _, content = line.partition("\t")
        report[name].append(content)
    return report


def check_events(lines: list[str], expected: str) -> None:
    *deltas, end = [json.loads(line) for line in lines]
    assert len(deltas) > 1
    assert "".join(event["delta"] for event in deltas) == expected
    assert end["status"] == "succeeded"
    assert end["sequences"][0]["text"] == expected


def check_calls(report: Report, expected: str) -> None:
    """Check a plain `/chat`, a stream, a polled job and a rejected request."""
    assert "failure" not in report, report["failure"]
    (chat,), (job,), (error,) = report["chat"], report["job"], report["error"]
    assert json.loads(chat)["sequences"][0]["text"] == expected
    check_events(report["event"], expected)
    assert json.loads(job)["result"]["sequences"][0]["text"] == expected
    status, _, body = error.partition(" ")
    assert status == "422"
    assert "nonsense" in json.loads(body)["detail"]
