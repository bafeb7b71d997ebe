"""Prefect's server: one that goes on, for `python -m flows.serve`, or one for a single run.

Both are `prefect server start` in a session of its own: a Ctrl-C in a terminal, or a SIGTERM to a
process group, would else end it together with us, and Prefect would then ask a dead server for
over a minute how the interrupted run ended. (So does Prefect's own temporary server, which brings
besides 75 MB and 2 s of the server's code into our process.)
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from backend.doctor import answers
from backend.errors import ConfigError, UserError
from flows import child

START_S = 120.0  # the first start makes the database


def use(url: str) -> None:
    """For all threads and for what they start; prefect.settings.temporary_settings is for one."""
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()


def at_hand() -> None:
    """The server that runs, else a temporary one until this program ends.

    Raises:
        UserError: none answers at the address that the environment names, or none starts.
    """
    url = PREFECT_API_URL.value()
    if url and answers(url):
        return
    if os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            f"no Prefect server answers at {url}, which PREFECT_API_URL names",
            mend="start it, or unset PREFECT_API_URL: then a temporary one serves",
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    server = _start(url)
    ending = ExitStack()
    ending.callback(server.terminate)
    ending.enter_context(child.outlived(server.pid))
    atexit.register(ending.close)  # after Prefect's threads have sent their last, which begin later
    use(url)


def start(url: str) -> None:
    """A server that goes on when we end.

    Raises:
        UserError: it is to run elsewhere, or does not start.
    """
    host = urlsplit(url).hostname
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
    print(f"starting a Prefect server at {url}; it writes to {_log()}", flush=True)
    _start(url, pid_file)


def _log() -> Path:
    return Path(PREFECT_HOME.value()) / "server.log"


def _start(url: str, pid_file: Path | None = None) -> "subprocess.Popen[bytes]":
    """Begin, and wait until it answers.

    Not --background: that one writes its warnings into a pipe whose reader has left, and dies of
    the first (3.8.8).

    Args:
        pid_file: what `prefect server stop` reads; an old one is overwritten. Without one it is a
            temporary server: no UI, no schedules.
    """
    place, log = urlsplit(url), _log()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "server", "start",
               "--host", place.hostname or "", "--port", str(place.port or 4200)]  # fmt: skip
    environment = dict(os.environ)
    if not pid_file:
        command.append("--no-services")
        environment["PREFECT_SERVER_UI_ENABLED"] = "false"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
            start_new_session=True,
        )  # fmt: skip
    if pid_file:
        pid_file.write_text(str(server.pid), encoding="ascii")
    until = time.monotonic() + START_S
    try:
        while server.poll() is None and time.monotonic() < until:
            if answers(url):
                return server
            time.sleep(0.1)
    except BaseException:  # Ctrl-C
        server.terminate()
        raise
    server.terminate()
    if pid_file:
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


def is_ours(pid: int, *names: str) -> bool | None:
    """Is there a process of that number, with one of these in its command line? The number of a
    dead one may be anybody's. None where the system cannot say."""
    try:
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:  # Windows has no ps
        return None
    return any(name in shown for name in names)
