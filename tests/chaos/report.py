"""Report of a run: tables of calls and faults, takeover times, and the logs of violations."""

import statistics
from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.chaos.harness.call_log import CallLog
from tests.chaos.harness.takeover import Takeover
from tests.chaos.run import Outcome
from tests.chaos.scenarios.call_plans import CallKind
from tests.chaos.scenarios.fault_schedule import Fault

MAX_EXAMPLES = 10
MAX_LOGS = 3


def print_report(outcome: Outcome, console: Console) -> None:
    console.print(calls_table(outcome))
    console.print(faults_table(outcome))
    console.print(takeover_lines(outcome))
    if stalls := outcome.timeline.stalls:
        total_s = sum(end - start for start, end in stalls)
        console.print(f"the machine stalled {len(stalls)} times, {total_s:.0f} s in total")
    print_violations(outcome, console)
    console.print(summary(outcome))


def print_schedule(schedule: list[Fault], console: Console) -> None:
    for fault in schedule:
        console.print(f"  {fault}", highlight=False, soft_wrap=True)


def calls_table(outcome: Outcome) -> Table:
    ends = sorted({end_of(log) for log in outcome.run_log.logs})
    table = Table("calls", *ends, "all", title="How calls ended")
    for kind in CallKind:
        counts = Counter(end_of(s) for s in outcome.run_log.logs if s.plan.kind is kind)
        if counts:
            numbers = [str(counts[end]) if counts[end] else "" for end in ends]
            table.add_row(kind, *numbers, str(counts.total()))
    return table


def end_of(log: CallLog) -> str:
    if log.end is not None:
        return str(log.end.status)
    if log.disconnected_at is not None:
        return "disconnected"
    return "response lost" if log.is_outcome_unknown else "refused"


def faults_table(outcome: Outcome) -> Table:
    table = Table("fault", "times", title="Faults")
    counts = Counter(str(interval.fault.kind) for interval in outcome.timeline.intervals)
    for kind, count in sorted(counts.items()):
        table.add_row(kind, str(count))
    return table


def summary(outcome: Outcome) -> str:
    """Return the totals; jobs whose responses were lost are not counted."""
    logs = outcome.run_log.logs
    num_jobs = len({job_id for log in logs for job_id in log.job_ids})
    num_retried = sum(log.retry_id is not None for log in logs)
    return (
        f"seed {outcome.settings.seed}: {len(logs)} calls, "
        f"{num_jobs} jobs accepted ({num_retried} of them retries), "
        f"{len(outcome.timeline.intervals)} faults in {outcome.wall_s:.0f} s, "
        f"{len(outcome.violations)} violations"
    )


def takeover_lines(outcome: Outcome) -> str:
    return "\n".join(
        f"{takeovers_of(each)} {when} (lease {outcome.settings.fleet.lease_s:g} s)"
        for each, when in (
            (outcome.takeovers, "after the fault of their worker"),
            (outcome.clean_takeovers, "without another fault"),
        )
    )


def takeovers_of(takeovers: list[Takeover]) -> str:
    waits = [each.waited_s for each in takeovers if each.waited_s is not None]
    if not waits:
        return "no takeovers"
    p50, most = statistics.median(waits), max(waits)
    return f"{len(waits)} takeovers, p50 {p50:.2f} s, max {most:.2f} s,"


def print_violations(outcome: Outcome, console: Console) -> None:
    """Print the violations by guarantee, with the logs of the first calls of each."""
    kinds = Counter(violation.guarantee for violation in outcome.violations)
    for guarantee, count in kinds.most_common():
        console.print(f"[red]{count} violations: {guarantee}[/red]")
        found = [each for each in outcome.violations if each.guarantee == guarantee]
        for violation in found[:MAX_EXAMPLES]:
            console.print(escape(f"- {violation.what}"), highlight=False, soft_wrap=True)
        for number in dict.fromkeys(each.call_number for each in found[:MAX_LOGS]):
            if number is not None:
                print_call_log(log_of(outcome, number), outcome, console)


def log_of(outcome: Outcome, call_number: int) -> CallLog:
    logs = outcome.run_log.logs
    return next(log for log in logs if log.plan.number == call_number)


def print_call_log(log: CallLog, outcome: Outcome, console: Console) -> None:
    for line in log.lines():
        console.print(escape(line), highlight=False, soft_wrap=True)
    for interval in outcome.timeline.overlapping(log.started, log.ended or log.started):
        lasted = "" if interval.ended is None else f" to {interval.ended - log.started:.2f}"
        console.print(
            f"   {interval.started - log.started:.2f}{lasted} s: {interval}",
            highlight=False,
            soft_wrap=True,
        )
