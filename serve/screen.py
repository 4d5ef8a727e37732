"""Print the progress of `falconer serve`, then its address and example requests."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.process.standard_streams import redirect_to_devnull

EXAMPLES: tuple[dict[str, object], ...] = (
    {"prompt": "Once upon a time"},
    {
        "messages": [{"role": "user", "content": "What is a falcon?"}],
        "generate_kwargs": {"max_new_tokens": 60},
    },
)


@dataclass(slots=True)
class Screen:
    is_quiet: bool = False

    def say(self, text: str) -> None:
        """Print `text`; stop printing once stdout is closed, as by `| head -1`."""
        if self.is_quiet:
            return
        try:
            print(text, flush=True)
        except OSError:
            redirect_to_devnull(sys.stdout)

    def ready(
        self,
        *,
        url: str,
        models: list[str],
        workers: int,
        redis: str,
        state_dir: Path,
        needs_key: bool,
    ) -> None:
        workers_text = f"{workers} worker{'s' if workers > 1 else ''}"
        rows = [
            "",
            f"  Falconer is ready on {url}      (API reference: {url}/docs)",
            "",
            *(f"  model   {model}, {workers_text}" for model in models),
            f"  redis   {redis}",
            f"  logs    {state_dir / 'logs'}",
            f"  state   {state_dir}",
            "",
            "  Try it from another terminal:",
            "",
            *(f"  {line}" for line in curl_lines(url, needs_key)),
            "",
            f"  The last one answers at once; its result is at {url}/jobs/<id>?wait=10",
            "",
            "  Ctrl-C stops it; jobs still queued are kept for the next start.",
            "",
        ]
        self.say("\n".join(rows))


def curl_lines(url: str, needs_key: bool) -> list[str]:
    """Return three commands: a prompt, a conversation, and a job to poll."""
    headers = "-H 'Content-Type: application/json'"
    if needs_key:
        headers += ' -H "Authorization: Bearer $FALCONER_API_KEY"'
    job = {"prompt": "The lighthouse keeper"}
    calls = [*(("/chat", body) for body in EXAMPLES), ("/jobs", job)]
    return [f"curl -s {url}{path} {headers} -d '{json.dumps(body)}'" for path, body in calls]
