"""What a run writes about itself, and what it says."""

import fcntl
import io
import json
import math
import os
import pty
import struct
import sys
import termios
import types

import pytest

from backend.errors import ConfigError
from backend.evaluation.baselines import Baseline
from backend.report import Report
from backend.training import log as module
from backend.training.log import (
    Progress,
    RunLog,
    Tensorboard,
    add_training,
    clock,
    mfu,
    plot_loss,
    read_metrics,
    read_status,
    smoothed,
    step_line,
)

# --- the files of a run --------------------------------------------------------------------------


def test_a_log_tells_how_the_run_ended(tmp_path):
    endings = {"done": None, "interrupted": KeyboardInterrupt(), "failed": ValueError("why")}
    for state, error in endings.items():
        try:
            with RunLog(tmp_path, resumed_at=None) as log:
                assert read_status(tmp_path)["state"] == "running"
                log.beat(3)
                if error:
                    raise error
        except (KeyboardInterrupt, ValueError):
            pass
        status = read_status(tmp_path)
        assert (status["state"], status["step"]) == (state, 3)
    assert status["reason"] == "why"


def test_a_resumed_log_drops_what_is_about_to_happen_again(tmp_path):
    with RunLog(tmp_path, resumed_at=None) as log:
        log.note(device="cpu")
        for step in range(1, 7):
            log.row(step=step, split="train", loss=1.0, lr=0.1)
            if step % 2 == 0:
                log.row(step=step, split="val", loss=1.0, bpc=1.0)
    with RunLog(tmp_path, resumed_at=4) as log:
        log.note(skipped_steps="2")
    kept = [(row["step"], row["split"]) for row in read_metrics(tmp_path)]
    assert kept == [(1, "train"), (2, "train"), (2, "val"), (3, "train"), (4, "train")]
    assert read_status(tmp_path)["notes"] == {"device": "cpu", "skipped steps": "2"}


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "val"}\n{"step": 2, "sp')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    assert read_metrics(tmp_path / "none") == []
    assert read_status(tmp_path) == {}


def test_what_is_no_number_is_null_in_the_file(tmp_path):
    with RunLog(tmp_path, resumed_at=None) as log:
        log.row(step=1, split="train", loss=math.nan, lr=0.1)
    assert read_metrics(tmp_path) == [{"step": 1, "split": "train", "loss": None, "lr": 0.1}]


def test_trackers_get_every_row_and_are_closed(tmp_path):
    class Tracker:
        def __init__(self):
            self.rows, self.finished = [], False

        def log(self, row):
            self.rows.append(row)

        def finish(self):
            self.finished = True

    tracker = Tracker()
    with RunLog(tmp_path, resumed_at=None, trackers=[tracker]) as log:
        log.row(step=1, split="val", loss=1.0)
    assert tracker.rows == [{"step": 1, "split": "val", "loss": 1.0}]
    assert tracker.finished


# --- trackers ------------------------------------------------------------------------------------


def test_tensorboard_gets_numbers_by_split_and_no_step_twice(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append("closed")

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    tracker = Tensorboard(tmp_path, resumed_at=40)
    tracker.log({"step": 50, "split": "train", "loss": 2.0, "mfu": None})
    tracker.finish()
    assert calls == [(str(tmp_path / "tensorboard"), 41), ("train/loss", 2.0, 50), "closed"]


def test_tensorboard_that_is_not_installed_is_told_with_the_mend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError) as caught:
        Tensorboard(tmp_path)
    assert "pip install -e .[tensorboard]" in str(caught.value)
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_writes_events_that_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tensorboard(tmp_path)
    tracker.log({"step": 3, "split": "val", "loss": 1.5})
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(3, 1.5)]


# --- the screen ----------------------------------------------------------------------------------

LINE = dict(
    step=90, max_iters=2000, epoch=0.4, loss=3.2, chars_per_token=1.0, lr=3e-4, grad_norm=1.5,
    tokens_per_s=12_345.6, mfu=0.412, seconds_left=3723,
)  # fmt: skip


def test_a_step_is_one_line_with_everything_that_is_known():
    assert step_line(**LINE) == (
        "step   90/2000  epoch   0.40  loss  3.2000   4.617 bits/char  lr 3.00e-04  norm   1.50"
        "     12,346 tokens/s  MFU 41.2 %   1:02:03 left"
    )
    assert "MFU" not in step_line(**LINE | {"mfu": None})


def test_columns_keep_their_width():
    others = [
        {"step": 1, "loss": 11.25, "grad_norm": 123.4},
        {"step": 2000, "epoch": 120.0, "tokens_per_s": 1_234_567, "seconds_left": 0},
        {"loss": math.nan, "grad_norm": math.inf, "lr": 0.0, "seconds_left": 359_999},
    ]
    places = {step_line(**LINE | other).index("tokens/s") for other in others}
    lengths = {len(step_line(**LINE | other)) for other in others}
    assert len(places) == len(lengths) == 1


def test_bits_per_character_come_from_the_tokens_of_the_corpus():
    line = step_line(**LINE | {"loss": 4 * math.log(2), "chars_per_token": 4.0})
    assert " 1.000 bits/char" in line


def test_a_clock_shows_hours_when_there_are_any():
    assert [clock(0), clock(59.6), clock(3599), clock(360_000)] == [
        "0:00", "1:00", "59:59", "100:00:00",
    ]  # fmt: skip


def test_elsewhere_than_on_a_terminal_lines_are_plain(capsys):
    with Progress(10) as progress:
        progress.line(1, "step 1")
        progress.say("validation")
        progress.line(2, "step 2")
        progress.warn("careful")
    assert capsys.readouterr() == ("step 1\nvalidation\nstep 2\n", "careful\n")


def test_of_several_processes_one_speaks(capsys):
    with Progress(10, quiet=True) as progress:
        progress.line(1, "step 1")
        progress.say("validation")
        progress.warn("careful")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_steps_share_one_line_and_evaluations_stay_above(monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with Progress(10, step=4) as progress:
            progress.line(5, "step 5")
            progress.line(6, "step 6")
            progress.say("validation 1.0")
            progress.line(7, "step 7")
        monkeypatch.undo()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    # what a reader sees of each line is what followed its last carriage return
    lines = [line.split("\r")[-1] for line in shown.rstrip().split("\r\n")]
    assert lines[0] == "validation 1.0"
    assert lines[1].endswith("step 7")
    assert len(lines) == 2


class Hung(io.StringIO):
    """A terminal that went away."""

    def write(self, text):
        raise OSError(5, "Input/output error")


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Hung, broken_pipe, closed])
def test_a_terminal_that_goes_away_takes_no_run_along(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream())
    with (
        RunLog(tmp_path, resumed_at=None) as log,
        Progress(10, when_lost=log.lost_screen) as progress,
    ):
        assert "screen" not in read_status(tmp_path)
        progress.say("hello")
        progress.line(1, "step 1")
        print("anything else that prints", flush=True)
        log.row(step=1, split="train", loss=1.0)
        assert read_status(tmp_path)["screen"] == "lost"
    status = read_status(tmp_path)
    assert (status["state"], status["screen"]) == ("done", "lost")
    assert len(read_metrics(tmp_path)) == 1
    sys.stdout.close()


def test_a_fault_of_ours_while_writing_is_not_swallowed(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(UnicodeEncodeError):
        Progress(10).say("é")


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 3050", None),
        ("Apple M3", None),
    ],
)
def test_a_device_has_its_own_peak_or_none(name, peak):
    assert mfu(50e12, name) == (peak and round(50 / peak, 4))


# --- the end of a run ----------------------------------------------------------------------------


def write_rows(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_curve_is_a_picture_also_of_an_empty_run(tmp_path):
    assert plot_loss(tmp_path).read_bytes().startswith(b"\x89PNG")
    rows = [
        {"step": 0, "split": "val", "loss": 4.0, "bpc": 6.0, "train_loss": None},
        {"step": 1, "split": "train", "loss": 3.0, "lr": 0.1},
        {"step": 2, "split": "train", "loss": None, "lr": 0.1},
        {"step": 1, "split": "val", "loss": 3.5, "bpc": 5.0, "train_loss": 3.0},
        {"step": 2, "split": "val", "loss": None, "bpc": None, "train_loss": 3.0},
    ]
    write_rows(tmp_path, rows)
    floors = {"uniform": Baseline(4.2, 6.1), "squeezed": Baseline(None, 2.2)}
    assert plot_loss(tmp_path, floors).read_bytes().startswith(b"\x89PNG")
    text = add_training(Report("Run"), tmp_path, floors).text()
    assert "5.000 bits per character at step 1" in text
    assert "| 1 | 3.0000 | 3.5000 | 5.0000 |" in text
    assert "| uniform |  | 4.2000 | 6.1000 |" in text
    assert "| squeezed |  |  | 2.2000 |" in text


def test_a_smoothed_curve_calms_down_and_never_lags():
    assert smoothed([3.0, 1.0]) == [3.0, 1.0]
    many = smoothed([2.0, 4.0] * 500)
    assert many[0] == 2.0
    assert all(2.9 < value < 3.1 for value in many[20:-20])
    line = [float(i) for i in range(1000)]
    assert smoothed(line) == pytest.approx(line)
    assert smoothed([]) == []


def test_the_report_has_time_notes_and_few_of_many_evaluations(tmp_path):
    rows = []
    for step in range(0, 1001, 10):
        if step:
            rows.append({"step": step, "split": "train", "loss": 1.0, "lr": 0.1,
                         "seconds": 0.5, "tokens_per_s": 2000})  # fmt: skip
        bpc = 1.0 if step == 440 else 2.0
        rows.append({"step": step, "split": "val", "loss": 1.0, "bpc": bpc, "train_loss": 1.0})
    write_rows(tmp_path, rows)
    with RunLog(tmp_path, resumed_at=2000) as log:
        log.note(device="cpu, bfloat16 (the processor has it)", early_stop="no new best in 5")
        text = add_training(Report("Run"), tmp_path, {}).text()  # the log is still open
    assert "- training: 8:20 without evaluations, 1,000,000 tokens, 2,000 a second" in text
    assert "- device: cpu, bfloat16 (the processor has it)" in text
    assert "- early stop: no new best in 5" in text
    listed = [line for line in text.splitlines() if line.endswith(".0000 |")]
    assert len(listed) == module.SHOWN + 1
    assert any(line.startswith("| 440 |") for line in listed)


def test_the_report_finds_the_baselines_beside_the_bins_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, [{"step": 0, "split": "val", "loss": 1.0, "bpc": 1.0}])
    assert "uniform" not in add_training(Report("Run"), tmp_path).text()
    (tmp_path / "config.json").write_text('{"dataset": "tiny/char"}')
    (tmp_path / "data/tiny/char").mkdir(parents=True)
    kept = {"format": 1, "bins": "x", "baselines": {"uniform": {"loss": 4.5, "bpc": 6.5}}}
    (tmp_path / "data/tiny/char/baselines.json").write_text(json.dumps(kept))
    assert "| uniform |  | 4.5000 | 6.5000 |" in add_training(Report("Run"), tmp_path).text()
    assert plot_loss(tmp_path).is_file()
