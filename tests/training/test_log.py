"""What a run writes about itself, and what it says."""

import json
import math
import sys
import types

import pytest

from backend.errors import ConfigError
from backend.evaluation.baselines import Baseline
from backend.report import Report
from backend.training import log as module
from backend.training.log import (
    RunLog,
    Tensorboard,
    add_training,
    plot_loss,
    read_metrics,
    read_status,
    smoothed,
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
