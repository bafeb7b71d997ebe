"""The training program as its user meets it: signals, kills, lost terminals, several processes.

Most programs here are forks of one server that has torch in memory already, and run what
`python -m backend.training.train` runs; where its start and end matter, it is the real one.
"""

import multiprocessing.forkserver
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config.loader import program
from backend.config.schema import TrainConfig
from backend.errors import UserError
from backend.evaluation import loss as evaluation
from backend.models import checkpoint
from backend.training import estimate, parallel, train
from backend.training.log import read_metrics, read_status
from tests.conftest import ROOT
from tests.training.conftest import TINY
from tests.training.test_train import assert_same_run, interrupted, rows, trainer, weights

pytestmark = pytest.mark.e2e

RUN = TINY | dict(n_layer=1, max_iters=9, eval_interval=4, sample_chars=4)
FORKS = multiprocessing.get_context("forkserver")
# what a run imports on its way, too
FORKS.set_forkserver_preload([__name__, "torch._dynamo", "torch.distributed.tensor"])
PATIENCE_S = 20


@pytest.fixture(scope="module", autouse=True)
def _server():
    """The server finds what to load as we do: Python 3.11 does not tell it our path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        multiprocessing.forkserver.ensure_running()


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """The loss curve is test_train's."""
    monkeypatch.setattr(train, "plot_loss", no_picture)


def no_picture(run, *_):
    (run / "loss.png").write_bytes(b"")


# --- programs -------------------------------------------------------------------------------------


def begin(settings, *, hook=None, env=None, out="screen", terminal=None):
    """A program in the current folder; what it says goes to the file `out` or to a terminal."""
    argv = [f"--{k}={v}" for k, v in settings.items()]
    arguments = (argv, Path.cwd(), hook, env or {}, out, terminal)
    process = FORKS.Process(target=_program, args=arguments)
    process.start()
    return process


def _program(argv, folder, hook, env, out, terminal):
    """What a fork does."""
    os.chdir(folder)
    os.environ.update(env)
    if terminal:
        os.setsid()
        file = os.open(terminal, os.O_RDWR)  # ours to be hung up by
    else:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    train.plot_loss = no_picture
    if hook:
        globals()[hook]()
    sys.exit(program(train.main, TrainConfig, argv))


def said(out="screen"):
    return Path(out).read_text() if Path(out).exists() else ""


def wait_for(process, words, out="screen"):
    """Until the program has said so."""
    end = time.monotonic() + 2 * PATIENCE_S
    while words not in said(out):
        assert process.is_alive(), said(out)
        assert time.monotonic() < end, said(out)
        time.sleep(0.01)


def left(process):
    """Its exit code."""
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        pytest.fail(f"still there after {PATIENCE_S} s: {said()}")
    return process.exitcode


def ended(settings, **more):
    return left(begin(settings, **more))


def tell(words):
    os.write(1, f"<{words}>\n".encode())


def after(owner, name, act):
    """Do something whenever a function has done its work."""
    real = getattr(owner, name)

    def both(*arguments, **keys):
        result = real(*arguments, **keys)
        act()
        return result

    setattr(owner, name, both)


# --- hooks: what makes a moment long enough to be met ---------------------------------------------


def slow_steps():
    calls = iter(range(10**9))

    def act():
        if (n := next(calls)) >= 4:
            tell(f"stepping {n}")
            time.sleep(0.1)

    after(parallel, "clip", act)


def slow_evaluation():
    real = evaluation._batches
    calls = iter(range(10**9))

    def long_split(*arguments):
        batches = list(real(*arguments))
        if next(calls) == 0:
            return batches
        tell("evaluating")
        return batches * 100_000

    evaluation._batches = long_split


def endless_sample():
    real = train.complete

    def complete(*arguments, eot, **keys):
        tell("sampling")
        return real(*arguments, eot=None, **keys)

    train.complete = complete


def slow_rehearsal():
    real = estimate.rehearse

    def rehearse(step, eager, compiled):
        tell("rehearsing")
        for _ in range(10**9):
            step(eager)
        return real(step, eager, compiled)

    estimate.rehearse = rehearse


def slow_save():
    real = checkpoint.save_tensors

    def save(tensors, path):
        if "step_00000004" in str(path):
            tell(f"saving {path.name}")
            time.sleep(0.3)
        real(tensors, path)

    checkpoint.save_tensors = save


def stuck_save():
    real = checkpoint.save_tensors

    def save(tensors, path):
        if "step_00000004" in str(path) and path.name.startswith("trainer"):
            tell("saving")
            time.sleep(60)
        real(tensors, path)

    checkpoint.save_tensors = save


def stuck_update():
    calls = iter(range(10**9))

    def act():
        if next(calls) == 5:
            tell("updating")
            time.sleep(60)

    after(torch.optim.AdamW, "step", act)


def small_disk():
    """No file above 15 kB from the second checkpoint on."""
    real = checkpoint.save

    def save(*arguments, step, **keys):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
        return real(*arguments, step=step, **keys)

    checkpoint.save = save


def killed_in_save():
    """By kill -9, before write number KILL_AT of the checkpoint of step 4."""
    at, counting, n = int(os.environ["KILL_AT"]), [], iter(range(10**9))

    def watch(owner, name):
        real = getattr(owner, name)

        def counted(*arguments, **keys):
            if counting and next(n) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keys)

        setattr(owner, name, counted)

    for name in ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir"):
        watch(os, name)
    watch(checkpoint, "save_file")
    real = checkpoint.save

    def save(*arguments, step, **keys):
        counting[:] = [1] if step == 4 else []
        result = real(*arguments, step=step, **keys)
        counting.clear()
        return result

    checkpoint.save = save


# --- signals --------------------------------------------------------------------------------------


@pytest.fixture
def whole(corpus, tiny):
    """out/whole: the run that nothing disturbed."""
    train.main(tiny(**RUN | dict(out_dir="out/whole")))
    return corpus / "out/whole"


def resumed_equals(whole, tiny, **changes):
    train.main(tiny(**RUN | dict(init_from="resume") | changes))
    assert_same_run(whole, whole.parent / "tiny")


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


@pytest.mark.parametrize(
    ("hook", "moment", "number", "changes"),
    [
        ("slow_steps", "stepping", signal.SIGINT, {}),
        ("slow_steps", "stepping", signal.SIGTERM, dict(optimizer="muon", batches="songs")),
        ("slow_steps", "stepping", signal.SIGHUP, {}),
        ("slow_evaluation", "evaluating", signal.SIGTERM, {}),
        ("slow_evaluation", "evaluating", signal.SIGINT, dict(always_save_checkpoint=False)),
        ("slow_save", "saving", signal.SIGINT, {}),
        ("slow_save", "saving", signal.SIGTERM, {}),
    ],
)
def test_a_signal_leaves_within_seconds_with_the_work_saved_and_a_resume_equals_no_signal(
    corpus, tiny, hook, moment, number, changes
):  # fmt: skip
    train.main(tiny(**RUN | dict(out_dir="out/whole") | changes))
    process = begin(RUN | changes, hook=hook)
    wait_for(process, f"<{moment}")
    os.kill(process.pid, number)
    if number == signal.SIGTERM:
        os.kill(process.pid, number)  # service managers and parents repeat it
    assert left(process) == SIGNALS[number]
    run = corpus / "out/tiny"
    assert read_status(run)["state"] == "interrupted"
    assert checkpoint.newest_whole(checkpoint.steps(run)).step >= 4
    assert not list(run.glob("checkpoints/.tmp*"))
    assert "stopping" in said()
    assert "go on with --init_from=resume --out_dir=out/tiny" in said()
    resumed_equals(corpus / "out/whole", tiny, **changes)


def test_a_signal_while_a_sample_is_written_leaves_at_once(corpus):
    process = begin(RUN | dict(sample_chars=10_000_000), hook="endless_sample")
    wait_for(process, "<sampling>")
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    assert left(process) == 143
    assert checkpoint.find(corpus / "out/tiny", "last").step == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_leaves_nothing_behind(corpus, number):
    process = begin(RUN, hook="slow_rehearsal")
    wait_for(process, "<rehearsing>")
    os.kill(process.pid, number)
    assert left(process) == SIGNALS[number]
    assert not (corpus / "out").exists()
    assert "Traceback" not in said()


@pytest.mark.parametrize(("hook", "moment"), [("stuck_update", "updating"),
                                              ("stuck_save", "saving")])  # fmt: skip
def test_a_second_ctrl_c_leaves_at_once_and_saves_nothing_half_done(
    whole, corpus, tiny, hook, moment
):  # fmt: skip
    process = begin(RUN, hook=hook)
    wait_for(process, f"<{moment}>")
    os.kill(process.pid, signal.SIGINT)
    wait_for(process, "stopping")
    os.kill(process.pid, signal.SIGINT)
    assert left(process) == 130
    run = corpus / "out/tiny"
    saved = 4 if hook == "stuck_update" else 0
    assert f"stopped at once, at step {4 + (saved > 0)}; step {saved} is saved" in said()
    assert read_status(run)["state"] == "interrupted"
    assert checkpoint.newest_whole(checkpoint.steps(run)).step == saved
    assert not list(run.glob("checkpoints/.tmp*"))
    resumed_equals(whole, tiny)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_signal_while_it_compiles_leaves_at_once_and_compiling_changes_little(corpus, tiny):
    env = dict(TORCHINDUCTOR_CACHE_DIR=str(corpus / "compiled"))
    process = begin(RUN | dict(compile=True), env=env)
    wait_for(process, "chance")  # the banner
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGINT)
    assert left(process) == 130
    assert not (corpus / "out").exists()
    process = begin(RUN | dict(compile=True, dropout=0.0), env=env)
    process.join(300)
    assert process.exitcode == 0
    assert "compiled in" in said()
    train.main(tiny(**RUN | dict(out_dir="out/whole", dropout=0.0)))
    ours, theirs = (rows(corpus / f"out/{name}") for name in ("tiny", "whole"))
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], abs=1e-3)


def test_the_real_program_is_stopped_by_a_signal_that_comes_twice_and_goes_on(corpus):
    longer = TINY | dict(max_iters=100_000, eval_interval=50_000)
    command = [sys.executable, "-m", "backend.training.train",
               *(f"--{k}={v}" for k, v in longer.items())]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("step     20/"):
                child.send_signal(signal.SIGTERM)
                child.send_signal(signal.SIGTERM)
                break
        began = time.monotonic()
        rest, _ = child.communicate(timeout=30)
    assert child.returncode == 143
    assert time.monotonic() - began < PATIENCE_S
    assert "go on with --init_from=resume" in rest
    stopped_at = checkpoint.find("out/tiny", "last").step
    assert stopped_at >= 20
    goes_on = longer | dict(init_from="resume", max_iters=stopped_at + 2)
    assert ended(goes_on) == 0, said()
    assert checkpoint.find("out/tiny", "last").step == stopped_at + 2


# --- kill -9 and full disks -----------------------------------------------------------------------


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_write_of_a_checkpoint_a_run_goes_on_as_if_nothing_had_happened(
    whole, corpus, stride
):  # fmt: skip
    found = set()
    for n in range(0, 100, stride):
        shutil.rmtree(corpus / "out/tiny", ignore_errors=True)
        if ended(RUN, hook="killed_in_save", env={"KILL_AT": str(n)}) != -signal.SIGKILL:
            break
        found.add(checkpoint.newest_whole(checkpoint.steps(corpus / "out/tiny")).step)
        assert ended(RUN | dict(init_from="resume")) == 0, said()
        assert_same_run(whole, corpus / "out/tiny")
        assert not list((corpus / "out/tiny").rglob(".tmp*"))
    assert n > 20
    assert found == {0, 4}


def test_a_disk_that_fills_up_ends_the_run_with_a_sentence_and_the_step_before(
    whole, corpus, tiny
):  # fmt: skip
    assert ended(RUN, hook="small_disk") == 2
    assert re.search(r"error: .*step_00000004.*(?s:.)*mend: free space, or another", said())
    assert "Traceback" not in said()
    run = corpus / "out/tiny"
    assert read_status(run)["state"] == "failed"
    assert checkpoint.newest_whole(checkpoint.steps(run)).step == 0
    resumed_equals(whole, tiny)


# --- the screen -----------------------------------------------------------------------------------


def test_a_reader_that_has_seen_enough_ends_no_run(corpus):
    command = [sys.executable, "-m", "backend.training.train",
               *(f"--{k}={v}" for k, v in RUN.items())]  # fmt: skip
    head = subprocess.run(["bash", "-c", 'set -o pipefail; "$@" | head -1', "-", *command],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (head.returncode, head.stderr) == (0, "")
    assert head.stdout == "settings:\n"
    status = read_status(corpus / "out/tiny")
    assert (status["state"], status["step"], status["screen"]) == ("done", 9, "lost")


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_a_run_saved_and_under_nohup_not_at_all(
    whole, corpus, tiny, nohup
):  # fmt: skip
    ours, theirs = pty.openpty()
    hook = "slow_steps_without_hangups" if nohup else "slow_steps"
    process = begin(RUN, hook=hook, terminal=os.ttyname(theirs))
    seen = b""
    while b"<stepping" not in seen:
        assert process.is_alive(), seen.decode()
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)
    assert left(process) == (0 if nohup else 143)
    run = corpus / "out/tiny"
    status = read_status(run)
    assert status["state"] == ("done" if nohup else "interrupted")
    assert checkpoint.newest_whole(checkpoint.steps(run)).step >= (9 if nohup else 4)
    resumed_equals(whole, tiny)


def slow_steps_without_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    slow_steps()


def test_without_any_stream_it_trains_silently(corpus):
    assert ended(RUN, hook="no_streams") == 0
    assert read_status(corpus / "out/tiny")["state"] == "done"


def no_streams():
    sys.stdout = sys.stderr = None  # as Python has it after >&- 2>&-
    os.close(1)
    os.close(2)


def test_a_console_of_another_alphabet_shows_question_marks(corpus):
    assert ended(RUN, hook="old_console") == 0, said()
    assert "Traceback" not in said()
    assert "validation" in said()


def old_console():
    sys.stdout.reconfigure(encoding="ascii", errors="strict")
    train.Progress.say, say = (
        lambda self, text: say(self, "\N{SNOWMAN} " + text),
        train.Progress.say,
    )


# --- what is wrong with the data or the settings --------------------------------------------------


def spoil(step, name="train"):
    """Write an id that no vocabulary has where the run reads first in this step."""
    file = Path(f"data/tiny/char/{name}.bin")
    ids = np.fromfile(file, dtype="<u2")
    T, n = TINY["block_size"], len(ids)
    reads = [np.random.default_rng([TrainConfig().seed, s]).integers(0, n - T, 4)
             for s in range(step + 1)]  # fmt: skip
    earlier = {i for starts in reads[:-1] for at in starts for i in range(at, at + T + 1)}
    place = next(i for at in reads[-1] for i in range(at, at + T + 1) if i not in earlier)
    ids[place] = 60_000
    ids.tofile(file)


@pytest.mark.parametrize(("step", "counted"), [(0, False), (3, False), (3, True)])
def test_ids_beyond_the_vocabulary_end_a_run_with_a_sentence_also_while_it_reads_ahead(
    corpus, tiny, step, counted
):  # fmt: skip
    if counted:  # by an earlier run, when they were whole
        train.main(tiny(**RUN | dict(max_iters=0, out_dir="out/before")))
    spoil(step)
    assert ended(RUN) == 2, said()
    assert re.search(r"error: token id 60000 in .*train.bin.*(?s:.)*mend: .*binarize", said())
    assert "Traceback" not in said()
    if not counted:
        assert not Path("out").exists()


def test_files_that_cannot_be_mapped_are_read_plainly(whole, corpus):
    assert ended(RUN, hook="no_mmap") == 0, said()
    assert "cannot be mapped into memory (no such device)" in said()
    assert_same_run(whole, corpus / "out/tiny")


def no_mmap():
    def memmap(*_, **__):
        raise OSError("no such device")

    np.memmap = memmap


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_deleted(
    whole, corpus, monkeypatch
):  # fmt: skip
    before = weights(whole)
    asked = RUN | dict(out_dir="out/whole", overwrite=True, seed=3)
    for key, value in dict(log_to="tensorboard", wandb_log=True).items():
        assert ended(asked | {key: value}, hook="no_trackers") == 2
        assert "pip install -e ." in said()
        assert "Traceback" not in said()
    assert all(torch.equal(v, before[k]) for k, v in weights(whole).items())


def no_trackers():
    for name in ("tensorboard", "wandb"):
        sys.modules.pop(name, None)
    import importlib.util

    importlib.util.find_spec = lambda name: None


def test_the_same_seed_gives_the_same_losses_in_another_process(whole, corpus):
    assert ended(RUN) == 0, said()
    assert_same_run(whole, corpus / "out/tiny")


# --- several processes ----------------------------------------------------------------------------

# no biases: a key's has no gradient but rounding errors, and AdamW makes steps of those
SHARED = RUN | dict(
    bias=False, batches="songs", tokens_per_step=1024, batch_warmup_iters=3, max_iters=7,
    learning_rate=1e-3, sample_chars=0,
)  # fmt: skip


def together(settings, *, hook=None, n=2):
    """The same program in n processes, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = dict(WORLD_SIZE=n, LOCAL_WORLD_SIZE=n, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    envs = [{k: str(v) for k, v in (shared | dict(RANK=i, LOCAL_RANK=i)).items()} for i in range(n)]
    return [begin(settings, hook=hook, env=env, out=f"screen{i}") for i, env in enumerate(envs)]


def done_together(settings, **more):
    codes = [left(process) for process in together(settings, **more)]
    assert codes == [0, 0], said("screen0") + said("screen1")


def assert_close(a, b, tolerance):
    for ours, theirs in ((weights(a), weights(b)), (trainer(a)[0], trainer(b)[0])):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert (ours[name] - theirs[name]).abs().max() <= tolerance, name
    ours, theirs = rows(a), rows(b)
    assert [(r["step"], r["split"], r["epoch"]) for r in ours] == [
        (r["step"], r["split"], r["epoch"]) for r in theirs
    ]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], abs=1e-4)


@pytest.fixture
def alone(corpus, tiny):
    """out/alone: one process."""
    train.main(tiny(**SHARED | dict(out_dir="out/alone")))
    return corpus / "out/alone"


def test_two_processes_train_evaluate_and_log_as_one(alone, corpus):
    for how in ("ddp", "fsdp"):
        done_together(SHARED | dict(parallel=how, out_dir=f"out/{how}"))
        assert "stopping" not in said("screen0")
        assert said("screen1") == ""
        assert_close(corpus / f"out/{how}", alone, 1e-6)
    assert ended(SHARED | dict(init_from="out/alone", eval_only=True)) == 0, said()
    one = re.findall("validation .*", said())
    done_together(SHARED | dict(init_from="out/alone", eval_only=True, parallel="fsdp"))
    assert re.findall("validation .*", said("screen0")) == one


def test_what_one_process_began_two_finish(alone, corpus, tiny, monkeypatch):
    interrupted(monkeypatch, tiny(**SHARED | dict(out_dir="out/ddp")), 4)
    shutil.copytree("out/ddp", "out/fsdp")
    for how in ("ddp", "fsdp"):
        done_together(SHARED | dict(parallel=how, out_dir=f"out/{how}", init_from="resume"))
        assert_close(corpus / f"out/{how}", alone, 1e-6)


@pytest.mark.parametrize(("how", "optimizer", "tolerance"),
                         [("ddp", "adamw", 1e-6), ("fsdp", "muon", 1e-4)])  # fmt: skip
def test_what_two_processes_were_stopped_in_one_finishes(corpus, tiny, how, optimizer, tolerance):
    # Newton-Schulz is in bf16: another last bit of a gradient is 1e-2 of a step
    config = SHARED | dict(optimizer=optimizer, muon_lr=1e-3)
    train.main(tiny(**config | dict(out_dir="out/alone")))
    processes = together(config | dict(parallel=how), hook="slow_steps")
    wait_for(processes[0], "<stepping 5>", "screen0")
    with pytest.raises(UserError, match="another program is writing in out/tiny"):
        train.main(tiny(**config | dict(init_from="resume")))
    number = signal.SIGINT if how == "ddp" else signal.SIGTERM
    for process in processes if how == "ddp" else processes[1:]:  # one that is told tells all
        os.kill(process.pid, number)
        os.kill(process.pid, number)  # the terminal does, and torchrun again
    codes = [left(process) for process in processes]
    assert codes == ([130, 130] if how == "ddp" else [143, 143]), said("screen0") + said("screen1")
    assert read_status(corpus / "out/tiny")["state"] == "interrupted"
    assert checkpoint.find("out/tiny", "last").step >= 5
    assert "go on with" not in said("screen1")
    train.main(tiny(**config | dict(init_from="resume")))
    assert_close(corpus / "out/tiny", corpus / "out/alone", tolerance)


def test_several_processes_leave_a_long_evaluation_too(corpus):
    processes = together(SHARED, hook="slow_evaluation")
    wait_for(processes[0], "<evaluating>", "screen0")
    time.sleep(0.3)
    os.kill(processes[0].pid, signal.SIGTERM)
    assert [left(process) for process in processes] == [143, 143]
    assert checkpoint.find("out/tiny", "last").step == 4


def test_a_fault_in_one_process_ends_all(corpus):
    processes = together(SHARED, hook="small_disk")  # only the first one writes
    assert left(processes[0]) == 2
    assert "mend: free space" in said("screen0")
    assert left(processes[1]) != 0
    assert checkpoint.find("out/tiny", "last").step == 0


def torchrun(settings):
    keys = [f"--{k}={v}" for k, v in settings.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "backend.training.train", *keys]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip


def test_torchrun_passes_a_signal_on_and_all_save_together(corpus, tiny):
    longer = SHARED | dict(max_iters=100_000, eval_interval=50_000)
    with torchrun(longer) as run:
        for line in run.stdout:
            if line.startswith("step     20/"):
                run.send_signal(signal.SIGTERM)
                break
        rest, _ = run.communicate(timeout=60)
    assert rest.count("go on with --init_from=resume") == 1
    assert read_status(corpus / "out/tiny")["state"] == "interrupted"
    stopped_at = checkpoint.find("out/tiny", "last").step
    assert stopped_at >= 20
    steps = [row["step"] for row in read_metrics(corpus / "out/tiny") if row["split"] == "train"]
    assert steps == list(range(1, stopped_at + 1))
    train.main(tiny(**longer | dict(init_from="resume", max_iters=stopped_at + 1)))


def test_a_mistake_under_torchrun_is_told_and_ends_all_processes(corpus):
    began = time.monotonic()
    with torchrun(SHARED | dict(dataset="nope/char")) as run:
        _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert time.monotonic() - began < 45
    assert "error: no train.bin in data/nope/char" in errors
    assert "Traceback" not in errors.partition("error:")[0]
