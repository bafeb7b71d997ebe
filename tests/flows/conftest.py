"""One served flow for all tests of a session: a server start costs seconds."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

# A run of seconds: what is tested is the flow, not the model. From scratch, in characters.
CHAR = {"tokenizer": "char"}
SMALL = ["n_layer=1", "n_embd=16", "n_head=2", "block_size=32", "tokens_per_step=128",
         "max_iters=6", "eval_interval=3", "warmup_iters=1", "sample_chars=8"]  # fmt: skip
ENDLESS = [*SMALL, "max_iters=1000000", "eval_interval=1000000"]


def until(true, seconds=180.0):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Prefect's own folder, and nothing but loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return os.environ | {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # any request that leaves the machine goes to a port that refuses it
        "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip


@contextmanager
def started(command, cwd, env, log):
    """A program in a session of its own, its output in a file; ended at the end."""
    with log.open("a") as file:
        child = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    child.log = log
    child.said = lambda text: text in log.read_text(errors="replace")
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()  # or what it started would live on
            try:
                child.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


@pytest.fixture(scope="session")
def server(environment, tmp_path_factory):
    """A Prefect server, started as flows.serve starts it where none answers."""
    home = Path(environment["PREFECT_HOME"])
    (home / "server.pid").write_text(str(os.getpid()))  # left by a crash: the number is ours now
    script = "import sys; from flows import server; server.start(sys.argv[1])"
    command = [sys.executable, "-c", script, environment["PREFECT_API_URL"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pid = int((home / "server.pid").read_text())
    assert pid != os.getpid()
    yield environment["PREFECT_API_URL"]
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def client(server):
    """Prefect's client, of the session's server."""
    from prefect import get_client
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    from flows.server import use

    use(server)
    with get_client(sync_client=True) as client:
        yield client
    for worker in (APILogWorker, EventsWorker):  # or they ask for the server for a minute at exit
        worker.drain_all(timeout=20)
    use("")


@pytest.fixture(scope="session")
def serve(server, environment, tmp_path_factory):
    """Starts `python -m flows.serve` in a folder of its own."""
    cwd = tmp_path_factory.mktemp("served")

    @contextmanager
    def start():
        log = cwd / f"serve-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "flows.serve"]
        with started(command, cwd, environment, log) as child:
            until(lambda: child.said("stop: Ctrl-C") or child.poll() is not None)
            assert child.poll() is None, log.read_text()
            yield child

    return SimpleNamespace(start=start, cwd=cwd)


@pytest.fixture(scope="session")
def run_flow(server, environment, tmp_path_factory):
    """Runs the flow as a person does, in a folder of its own."""
    cwd = tmp_path_factory.mktemp("flow")

    def run(*arguments, env=environment):
        command = [sys.executable, "-m", "flows.lyrics_pipeline", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return SimpleNamespace(cwd=cwd, run=run, environment=environment)
