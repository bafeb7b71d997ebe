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
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from prefect.settings import PREFECT_API_URL, PREFECT_HOME
from prefect.states import Crashed

from backend.config.loader import program
from backend.config.schema import Settings
from backend.doctor import PREFECT_URL, answers
from backend.errors import UserError
from flows import NAME, deployments
from flows.artifacts import GONE
from flows.lyrics_pipeline import lyrics_pipeline, say_how_to_continue, use_server

POLL_S = 2.0  # Prefect asks every 10: a person is waiting
START_S = 120.0  # the first start makes the database


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
        start_server(url)
    use_server(url)
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


def start_server(url: str) -> None:
    """Prefect's server, in the background and in a session of its own: a Ctrl-C for us is none for
    it.

    Raises:
        UserError: it is to run elsewhere, or does not start.
    """
    place = urlsplit(url)
    host, port = place.hostname or "", place.port or 4200
    if host not in ("127.0.0.1", "localhost", "0.0.0.0", "::1"):
        raise UserError(
            f"no Prefect server answers at {url}",
            why="it is another machine's; only one on this machine is started from here",
            mend="start it there, or unset PREFECT_API_URL",
        )
    pid_file = PREFECT_HOME.value() / "server.pid"
    if (pid := running(pid_file)) is not None:
        raise UserError(
            f"a Prefect server (process {pid}) runs, and does not answer at {url}",
            mend="wait a moment if it has just been started, else `prefect server stop`",
        )
    log = pid_file.with_name("server.log")
    print(f"starting a Prefect server at {url}; it writes to {log}", flush=True)
    # Not --background: that one writes its warnings into a pipe whose reader has left, and dies of
    # the first (3.8.8). The file is what `prefect server stop` reads; an old one is overwritten.
    command = [sys.executable, "-m", "prefect", "--no-prompt", "server", "start",
               "--host", host, "--port", str(port)]  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    pid_file.write_text(str(server.pid), encoding="ascii")
    until = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < until:
        if answers(url):
            return
        time.sleep(0.2)
    server.terminate()
    pid_file.unlink(missing_ok=True)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise UserError(
        f"Prefect's server did not start at {url}: {said[-1] if said else 'it said nothing'}",
        why=f"more is in {log}",
        mend="PREFECT_API_URL=http://127.0.0.1:4201/api takes another port",
    )


def running(pid_file: Path) -> int | None:
    """The server's process of that file, if it is one: after a crash or a restart of the machine
    the number may be anybody's, and `prefect server stop` would stop them."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if is_ours(pid, "prefect") else None


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
            here = machine == platform.node()
            if not here or is_ours(int(pid), "prefect.engine", "lyrics", "flows.") is not False:
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


def is_ours(pid: int, *names: str) -> bool | None:
    """Is there a process of that number, with one of these in its command line? The number of a
    dead one may be anybody's. None where the system cannot say."""
    try:
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:  # Windows has no ps
        return None
    return any(name in shown for name in names)


if __name__ == "__main__":
    sys.exit(program(main, Settings))
