"""Real Prefect runs: an import alone shows no broken one."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from backend.models import checkpoint
from backend.training.log import read_status
from tests.conftest import ROOT
from tests.flows.conftest import CHAR, ENDLESS, SMALL, started, until

pytestmark = pytest.mark.e2e


def create(client, deployment, **parameters):
    """A run, as `prefect deployment run` makes it."""
    found = client.read_deployment_by_name(f"lyrics-pipeline/{deployment}")
    return client.create_flow_run_from_deployment(found.id, parameters=parameters).id


def ended(client, run_id):
    return until(lambda: (r := client.read_flow_run(run_id)).state.is_final() and r)


def task_states(client, run_id):
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    return until(
        lambda: (
            (tasks := {t.name: t.state.name for t in client.read_task_runs(flow_run_filter=wanted)})
            and "Running" not in tasks.values()
            and tasks
        )
    )


def logged(client, run_id):
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    return [line.message for line in client.read_logs(log_filter=wanted, limit=200)]


def artifacts(client, run_id):
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {a.key: a.data for a in client.read_artifacts(artifact_filter=wanted)}


def trained(child, after=0):
    """Wait for training to be at work; returns how much had been said by then."""
    step = re.compile(r"^step +[2-9]\d/?", re.MULTILINE)
    until(lambda: step.search(child.log.read_text(), after))
    return len(child.log.read_text())


@pytest.fixture
def here(client, monkeypatch, capsys):
    """The flow in this process: in a folder, with the server of the session; what it said too."""
    from flows.lyrics_pipeline import lyrics_pipeline

    def run(cwd, **parameters):
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        state = lyrics_pipeline(**parameters, return_state=True)
        return state, capsys.readouterr().out

    return run


# --- deployments ----------------------------------------------------------------------------------


# One test, since all its steps want the same service, and tests may be shared out among processes.
def test_a_served_flow_does_all_once_and_is_cancelled_killed_and_stopped_without_a_loss(
    serve, client, environment, here
):
    with serve.start() as service:
        _the_bare_name_runs_the_default_deployment(service, serve, client, environment)
        _a_second_run_has_nothing_to_do_and_a_third_only_what_changed(serve, client, here)
        _an_impossible_parameter_is_refused(client)
        _a_cancelled_run_is_gone_on_with_and_a_killed_one_is_saved_too(service, serve, client)
        _a_stopped_service_ends_its_run_as_cancelled(service, serve, client)


def _the_bare_name_runs_the_default_deployment(service, serve, client, environment):
    installed = {point.name for point in importlib.metadata.entry_points(group="prefect.plugins")}
    assert "lyrics-pipeline" in installed, "install again: pip install --no-deps -e ."
    # in the project's folder, as pyproject.toml switches the plugin on there
    command = [sys.executable, "-m", "prefect", "deployment", "run", "lyrics-pipeline", "--watch",
               "-p", f"train_overrides={json.dumps(SMALL)}", "-p", "num_samples=1",
               "-p", "tokenizer=char"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + service.log.read_text()
    run_id = re.search(r"UUID: (\S+)", done.stdout)[1]
    run = client.read_flow_run(run_id)
    assert run.name == "auto-demo-demo"
    assert {"lyrics", "default", "auto", "demo"} <= set(run.tags)
    assert run.state.name == "Completed"
    assert set(task_states(client, run_id).values()) == {"Completed"}
    [songs] = (serve.cwd / "out/demo/lyrics").glob("*.jsonl")
    text = json.loads(songs.read_text())["text"].strip()

    shown = artifacts(client, run_id)
    assert shown["training-demo"] == 100.0
    assert shown["dataset-card-demo"].startswith("# ")
    assert "bits/character" in shown["evaluation-demo"]
    assert "data:image/png;base64,iVBOR" in shown["loss-curve-demo"]
    assert text in shown["lyrics-demo"]
    assert "novelty" in shown["lyrics-demo"] or "longest run" in shown["lyrics-demo"]
    lines = until(
        lambda: (said := logged(client, run_id)) and "lyrics" in said[-1] + said[-2] and said
    )
    assert any(re.match(r"step +\d+ +validation", line) for line in lines)
    assert any(line.startswith("clean ") for line in lines)
    assert service.said("step      0  validation")  # and on the screen, once
    assert service.log.read_text().count("step      0  validation") == 1


def _a_second_run_has_nothing_to_do_and_a_third_only_what_changed(serve, client, here):
    cwd = serve.cwd
    before = {p: p.stat().st_mtime_ns for p in cwd.rglob("*") if p.suffix != ".log"}
    state, out = here(cwd, **CHAR, train_overrides=SMALL, num_samples=1)
    assert state.name == "Completed", state.message
    assert set(task_states(client, state.state_details.flow_run_id).values()) == {"Skipped"}
    assert out.count("(seed ") == 1  # the song is shown again
    changed = [p.name for p, t in before.items() if p.is_file() and p.stat().st_mtime_ns != t]
    assert set(changed) <= {"report.md", ".flow.lock"}

    (cwd / "data/demo/data.json").unlink()  # a deleted output is made again, and no more than that
    state, out = here(cwd, **CHAR, train_overrides=SMALL, num_samples=1)
    states = task_states(client, state.state_details.flow_run_id)
    assert states.pop("clean") == "Completed"
    assert set(states.values()) == {"Skipped"}

    report = (cwd / "out/demo/report.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in report for name in states)
    assert "novelty" in report or "longest run" in report


def _an_impossible_parameter_is_refused(client):
    from prefect.exceptions import PrefectHTTPStatusError

    with pytest.raises(PrefectHTTPStatusError, match="tpu"):
        create(client, "cpu", profile="tpu")


def _a_cancelled_run_is_gone_on_with_and_a_killed_one_is_saved_too(service, serve, client):
    from prefect.states import Cancelling

    parameters = {"run": "long", **CHAR, "train_overrides": ENDLESS}
    folder = serve.cwd / "out/long"
    run_id = create(client, "cpu", **parameters)
    said = trained(service)
    asked = time.monotonic()
    client.set_flow_run_state(run_id, Cancelling())
    assert ended(client, run_id).state.name == "Cancelled"
    assert time.monotonic() - asked < 25  # of the 30 s that Prefect gives
    assert read_status(folder)["state"] == "interrupted"
    step = checkpoint.find(folder, "last").step
    assert step >= 20
    # the command that continues, said where people look: in the log of the run
    command = "go on with: prefect deployment run lyrics-pipeline/cpu -p run=long"
    assert until(lambda: [line for line in logged(client, run_id) if command in line])

    run_id = create(client, "cpu", **parameters)
    said = trained(service, after=said)
    assert f"out/long, steps {step} to 1,000,000" in service.log.read_text()
    _, _, pid = client.read_flow_run(run_id).infrastructure_pid.rpartition(":")
    os.kill(int(pid), signal.SIGKILL)
    assert ended(client, run_id).state.name == "Crashed"
    until(lambda: read_status(folder)["state"] == "interrupted", 20)
    assert checkpoint.find(folder, "last").step > step
    assert until(lambda: [line for line in logged(client, run_id) if command in line])


def _a_stopped_service_ends_its_run_as_cancelled(service, serve, client):
    at = len(service.log.read_text())
    run_id = create(client, "default", run="stopped", **CHAR, train_overrides=ENDLESS)
    trained(service, after=at)
    service.send_signal(signal.SIGTERM)
    assert service.wait(40) == 0, service.log.read_text()
    assert client.read_flow_run(run_id).state.name == "Cancelled"
    assert read_status(serve.cwd / "out/stopped")["state"] == "interrupted"
    assert "Traceback" not in service.log.read_text()[at:]


def test_runs_that_died_with_their_machine_are_crashed_and_the_living_are_left_alone(
    client, tmp_path, capsys
):
    import platform

    from prefect.states import Running, Scheduled

    from flows.lyrics_pipeline import lyrics_pipeline
    from flows.serve import look_back

    yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=n) for n in (-1, 1))
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", "prefect.engine"]
    with started(sleep, tmp_path, os.environ, tmp_path / "log") as living:
        runs = {}
        for name, place in {
            "dead": f"{platform.node()}:99999999", "living": f"{platform.node()}:{living.pid}",
            "elsewhere": "another-machine:99999999", "unknown": None,
        }.items():  # fmt: skip
            run = client.create_flow_run(lyrics_pipeline, name=name, state=Running())
            if place:
                client.update_flow_run(run.id, infrastructure_pid=place)
            runs[name] = run.id
        client.create_flow_run(
            lyrics_pipeline, name="late", state=Scheduled(scheduled_time=yesterday)
        )
        client.create_flow_run(
            lyrics_pipeline, name="planned", state=Scheduled(scheduled_time=tomorrow)
        )
        look_back()
    states = {name: client.read_flow_run(run_id).state.name for name, run_id in runs.items()}
    assert states.pop("dead") == "Crashed"
    assert set(states.values()) == {"Running"}
    said = capsys.readouterr().out
    assert "dead had died" in said
    assert "late has waited and begins" in said
    assert "planned" not in said


# --- from the command line ------------------------------------------------------------------------


def test_the_node_profile_trains_in_the_processes_of_torchrun(here, tmp_path, monkeypatch):
    monkeypatch.setenv("PET_NPROC_PER_NODE", "2")
    overrides = [*SMALL, "device=cpu", "dtype=float32", "compile=False"]
    stages = ["crawl", "clean", "binarize", "train"]
    state, out = here(
        tmp_path, profile="a100_node", stages=stages, **CHAR, train_overrides=overrides
    )
    assert state.name == "Completed", state.message
    assert "process 1 of 2" in out
    assert read_status(tmp_path / "out/demo")["state"] == "done"


def test_a_stage_that_fails_says_which_and_why_and_how_to_go_on_and_keeps_what_was_there(
    here, tmp_path
):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs/Anon - Tide.txt").write_text("one line\n")
    state, _ = here(tmp_path, source=["files"], path="songs")
    assert state.name == "Failed"
    assert state.message.startswith("binarize: ")
    assert "holds no songs" in state.message
    assert "then python -m flows.lyrics_pipeline --source files --path=songs" in state.message
    assert (tmp_path / "data/songs/dropped.jsonl").is_file()

    state, _ = here(tmp_path, stages=["train"])
    assert "train: training did not finish: no train.bin" in state.message or (
        "train: training did not finish: " in state.message and "binarize" in state.message
    )


def test_a_site_that_gives_only_a_part_leaves_a_run_that_is_complete_but_for_that(
    here, tmp_path, monkeypatch
):
    from backend.errors import NetworkError
    from backend.storage import Summary
    from flows import stages

    def partly(config):
        rows = [{"failed": ["why"] * (n < 3)} for n in range(40)]
        (tmp_path / "crawl.json").write_text(json.dumps({"artists": rows}))
        return Summary("crawl", tmp_path, {"artists": 40, "failed": 3, "songs": 9})

    monkeypatch.setattr(stages.crawl_stage, "main", partly)
    parameters = dict(source=["darklyrics"], artists=["A", "B"], stages=["crawl"])
    state, out = here(tmp_path, **parameters)
    assert (state.type, state.name) == ("COMPLETED", "Incomplete")
    assert state.message.startswith("3 of 40 artists incomplete; go on with: python -m flows.")
    assert "--artists A B" in out

    def refused(config):
        raise NetworkError("stopped: 403", mend="wait")

    monkeypatch.setattr(stages.crawl_stage, "main", refused)
    state, _ = here(tmp_path, **parameters)  # no song is there from before
    assert state.name == "Failed"
    assert "crawl: stopped: 403" in state.message
    monkeypatch.undo()
    here(tmp_path, stages=["crawl"], dataset="site")
    monkeypatch.setattr(stages.crawl_stage, "main", refused)
    state, out = here(tmp_path, **parameters, dataset="site")
    assert state.name == "Incomplete"
    assert state.message.startswith("stopped: 403; go on with:")
    assert re.search(r"goes on with the \d+ songs", out)


def test_a_full_disk_and_a_misspelt_key_are_sentences(here, tmp_path, monkeypatch):
    import errno

    from flows import stages

    state, _ = here(tmp_path, train_overrides=["max_itres=5"])
    assert state.name == "Failed"
    assert "did you mean 'max_iters'" in state.message

    def full(config):
        raise OSError(errno.ENOSPC, "No space left on device", "data/demo/raw")

    monkeypatch.setattr(stages.crawl_stage, "main", full)
    state, _ = here(tmp_path, stages=["crawl"])
    assert "crawl: cannot use data/demo/raw: No space left on device" in state.message


def test_without_a_server_a_temporary_one_serves_and_one_that_was_named_must_be_there(run_flow):
    alone = run_flow.environment | {"PREFECT_API_URL": ""}
    code, out, err = run_flow.run("--stages", "crawl", "clean", env=alone)
    assert code == 0, out + err
    assert (run_flow.cwd / "data/demo/data.json").is_file()
    assert err.count("\n") <= 1, err  # nothing of Prefect's

    named = run_flow.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    code, out, err = run_flow.run(env=named)
    assert code == 2
    assert "no Prefect server answers at http://127.0.0.1:9/api" in err


def test_a_ctrl_c_saves_the_training_and_leaves_soon(run_flow):
    run = run_flow.cwd / "out/stopped"
    command = [sys.executable, "-m", "flows.lyrics_pipeline", f"--run={run.name}",
               "--tokenizer=char", "--train_overrides", *ENDLESS]  # fmt: skip
    log = run_flow.cwd / "stopped.log"
    with started(command, run_flow.cwd, run_flow.environment, log) as child:
        trained(child)
        began = time.monotonic()
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(60) == 130, log.read_text()
    assert time.monotonic() - began < 20
    assert "Traceback" not in log.read_text()
    assert "go on with: python -m flows.lyrics_pipeline --run=stopped" in log.read_text()
    assert read_status(run)["state"] == "interrupted"
    assert checkpoint.find(run, "last").step >= 20


def test_the_flow_imports_without_starting_anything_and_settings_can_be_overridden():
    script = (
        "import os; os.environ['PREFECT_LOGGING_INTERNAL_LEVEL'] = 'DEBUG'\n"
        "import flows.lyrics_pipeline, sys\n"
        "assert os.environ['PREFECT_LOGGING_INTERNAL_LEVEL'] == 'DEBUG'\n"
        "assert os.environ['DO_NOT_TRACK'] == '1'\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_two_workers_of_a_pool_on_one_machine_work_side_by_side(client, environment, tmp_path):
    from prefect.client.schemas.actions import WorkPoolCreate

    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    client.create_work_pool(WorkPoolCreate(name="lyrics", type="process"))
    at_home = environment | {"PWD": str(tmp_path)}  # as a shell says it: prefect.yaml asks for it
    deploy = [
        sys.executable,
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "-n",
        "cpu",
        "-n",
        "default",
    ]
    done = subprocess.run(
        deploy, cwd=tmp_path, env=at_home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    worker = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        "lyrics",
        "--limit",
        "1",
    ]
    logs = [tmp_path / "worker1.log", tmp_path / "worker2.log"]
    with (
        started([*worker, "--name", "1"], tmp_path, at_home, logs[0]),
        started([*worker, "--name", "2"], tmp_path, at_home, logs[1]),
    ):
        overrides = {
            **CHAR,
            "train_overrides": ENDLESS,
            "stages": ["crawl", "clean", "binarize", "train"],
        }
        for name in ("cpu", "default"):
            create(client, name, dataset=name, **overrides)
        runs = [tmp_path / "out/cpu", tmp_path / "out/default"]
        until(lambda: all(read_status(run).get("state") == "running" for run in runs))
        until(lambda: all("step " in log.read_text() for log in logs))  # one each
    until(lambda: all(read_status(run)["state"] == "interrupted" for run in runs), 20)
