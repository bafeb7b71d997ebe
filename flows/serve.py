"""Serve: a Prefect server if none answers, then the deployments, until it is stopped.

    python -m flows.serve
    prefect deployment run lyrics-pipeline/cpu --watch      (in another terminal)

Reads nothing. Writes what the runs write, into data/ and out/ of the current folder. One run at a
time; more of them wait. Ctrl-C and SIGTERM stop the run that is on, which saves, and then this
program. The server goes on, so that last night's runs can be looked at: `prefect server stop`.
"""

import asyncio
import platform
import signal
import sys
from typing import Any

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from backend.config.loader import program
from backend.config.schema import Settings
from backend.doctor import PREFECT_URL, answers
from flows import NAME, deployments, server
from flows.artifacts import GONE
from flows.lyrics_pipeline import lyrics_pipeline, say_how_to_continue

POLL_S = 2.0  # Prefect asks every 10: a person is waiting


class Stoppable(Runner):
    """Stops well: the run that is on is told, saves, and ends as Cancelled. Left alone, a Ctrl-C
    would kill it, and leave it Running in the eyes of the server; and Prefect's own handler of
    SIGTERM waits for ever, for a coroutine that nobody runs (3.8.8)."""

    asked: "asyncio.Task[None] | None" = None

    def handle_sigterm(self, *_: Any, **__: Any) -> None:
        if not self.started or self.asked:  # a second one cannot wait
            raise KeyboardInterrupt
        print("stopping; a run that is on saves first ...", flush=True)
        # schedules rest while nobody serves; a server that is gone would be asked for a minute
        self.pause_on_shutdown = answers(PREFECT_API_URL.value() or "")
        loop = asyncio.get_running_loop()
        self.asked = loop.create_task(self.astop())
        loop.call_soon_threadsafe(lambda: None)  # wakes it


def main(config: Settings) -> None:
    url = PREFECT_API_URL.value() or PREFECT_URL
    if not answers(url):
        server.start(url)
    server.use(url)
    look_back()
    runner = Stoppable(name="lyrics", limit=1, query_seconds=POLL_S)
    signal.signal(signal.SIGINT, runner.handle_sigterm)
    for deployment in deployments.build():
        runner.add_deployment(deployment)
    names = " ".join(f"/{name}" for name in deployments.PROFILES)
    print(
        f"serving {NAME}: {names}\n"
        f"  run:  prefect deployment run {NAME}/default --watch\n"
        f"  look: {url.removesuffix('/api')}\n"
        "  stop: Ctrl-C; the server goes on until `prefect server stop`",
        flush=True,
    )
    try:
        asyncio.run(runner.start())
    except (RuntimeError, *GONE):  # a server that is gone took the watch over cancellations along
        if not runner.asked:
            raise


def look_back() -> None:
    """A power cut, or a kill -9 of this program, leaves runs that are Running for ever, and that
    hold the place of the next one: those of this machine whose process is gone are Crashed. And
    runs that were asked for while nobody served begin now, which may surprise."""

    def runs(*states: StateType) -> list[FlowRun]:
        wanted = FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
        )
        ours = FlowFilter(name=FlowFilterName(any_=[NAME]))
        return client.read_flow_runs(flow_filter=ours, flow_run_filter=wanted)

    with get_client(sync_client=True) as client:
        for run in runs(StateType.RUNNING, StateType.CANCELLING):
            machine, _, pid = (run.infrastructure_pid or "").rpartition(":")
            if machine != platform.node():
                continue
            if server.is_ours(int(pid), "prefect.engine", "lyrics", "flows.") is not False:
                continue
            state: State[Any] = Crashed(message="its process was killed, or the machine stopped")
            client.set_flow_run_state(run.id, state, force=True)
            print(f"{run.name} had died; what it finished is kept")
            run.state = state
            say_how_to_continue(lyrics_pipeline, run, state)
        for run in runs(StateType.SCHEDULED):
            if run.estimated_start_time_delta.total_seconds() > 1:
                print(
                    f"{run.name} has waited and begins; prefect flow-run cancel {run.id} stops it"
                )


if __name__ == "__main__":
    sys.exit(program(main, Settings))
