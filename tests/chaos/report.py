"""What a run says at its end: a table of calls and faults, how fast jobs were taken over, and the
story of every broken promise."""

import statistics
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.chaos.history import Story
from tests.chaos.plans import Kind
from tests.chaos.run import Outcome
from tests.chaos.schedule import Fault
from tests.chaos.takeover import Takeover

MAX_EXAMPLES = 10
MAX_STORIES = 3


def print_report(outcome: Outcome, console: Console) -> None:
    console.print(calls_table(outcome))
    console.print(faults_table(outcome))
    console.print(takeover_lines(outcome))
    if stalls := outcome.weather.stalls:
        total_s = sum(end - start for start, end in stalls)
        console.print(f"the machine stood still {len(stalls)} times, {total_s:.0f} s in all")
    print_violations(outcome, console)
    console.print(summary(outcome))


def print_schedule(schedule: list[Fault], console: Console) -> None:
    for fault in schedule:
        console.print(f"  {fault}", highlight=False, soft_wrap=True)


def calls_table(outcome: Outcome) -> Table:
    ends = sorted({end_of(story) for story in outcome.history.stories})
    table = Table("calls", *ends, "all", title="How calls ended")
    for kind in Kind:
        counts = Counter(end_of(s) for s in outcome.history.stories if s.plan.kind is kind)
        if counts:
            numbers = [str(counts[end]) if counts[end] else "" for end in ends]
            table.add_row(kind, *numbers, str(counts.total()))
    return table


def end_of(story: Story) -> str:
    if story.end is not None:
        return str(story.end.status)
    if story.left is not None:
        return "left"
    return "answer lost" if story.is_lost else "refused"


def faults_table(outcome: Outcome) -> Table:
    table = Table("fault", "times", title="Faults")
    counts = Counter(str(outage.fault.kind) for outage in outcome.weather.outages)
    for kind, count in sorted(counts.items()):
        table.add_row(kind, str(count))
    return table


def summary(outcome: Outcome) -> str:
    """Jobs that nobody was told of, because the answer was lost, are not among them."""
    stories = outcome.history.stories
    num_jobs = len({job_id for story in stories for job_id in story.job_ids})
    num_retried = sum(story.retry_id is not None for story in stories)
    return (
        f"seed {outcome.settings.seed}: {len(stories)} calls, "
        f"{num_jobs} jobs accepted ({num_retried} of them retries), "
        f"{len(outcome.weather.outages)} faults in {outcome.wall_s:.0f} s, "
        f"{len(outcome.violations)} violations"
    )


def takeover_lines(outcome: Outcome) -> str:
    return "\n".join(
        f"{takeovers_of(each)} {when} (lease {outcome.settings.fleet.lease_s:g} s)"
        for each, when in (
            (outcome.takeovers, "after their worker was struck"),
            (outcome.clean_takeovers, "while nothing else was broken"),
        )
    )


def takeovers_of(takeovers: list[Takeover]) -> str:
    waits = [each.waited_s for each in takeovers if each.waited_s is not None]
    if not waits:
        return "no job changed hands"
    p50, most = statistics.median(waits), max(waits)
    return f"{len(waits)} jobs changed hands, p50 {p50:.2f} s, max {most:.2f} s,"


def print_violations(outcome: Outcome, console: Console) -> None:
    """Every kind of it, with the stories of the first calls of each."""
    kinds = Counter(violation.promise for violation in outcome.violations)
    for promise, count in kinds.most_common():
        console.print(f"[red]broken {count} times: {promise}[/red]")
        found = [each for each in outcome.violations if each.promise == promise]
        for violation in found[:MAX_EXAMPLES]:
            console.print(escape(f"- {violation.what}"), highlight=False, soft_wrap=True)
        for number in dict.fromkeys(each.call_number for each in found[:MAX_STORIES]):
            if number is not None:
                print_story(story_of(outcome, number), outcome, console)


def story_of(outcome: Outcome, call_number: int) -> Story:
    stories = outcome.history.stories
    return next(story for story in stories if story.plan.number == call_number)


def print_story(story: Story, outcome: Outcome, console: Console) -> None:
    for line in story.lines():
        console.print(escape(line), highlight=False, soft_wrap=True)
    for outage in outcome.weather.during(story.began, story.ended or story.began):
        lasted = "" if outage.ended is None else f" to {outage.ended - story.began:.2f}"
        console.print(
            f"   {outage.began - story.began:.2f}{lasted} s: {outage}",
            highlight=False,
            soft_wrap=True,
        )
