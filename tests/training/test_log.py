"""What a run writes about itself."""

import json

from backend.report import Report
from backend.training.log import RunLog, add_training, plot_loss, read_metrics, read_status


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
        for step in range(1, 7):
            log.row(step=step, split="train", loss=1.0, lr=0.1)
            if step % 2 == 0:
                log.row(step=step, split="val", loss=1.0, bpc=1.0)
    with RunLog(tmp_path, resumed_at=4):
        pass
    kept = [(row["step"], row["split"]) for row in read_metrics(tmp_path)]
    assert kept == [(1, "train"), (2, "train"), (2, "val"), (3, "train"), (4, "train")]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "val"}\n{"step": 2, "sp')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    assert read_metrics(tmp_path / "none") == []
    assert read_status(tmp_path) == {}


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


def test_the_curve_is_a_picture_also_of_an_empty_run(tmp_path):
    assert plot_loss(tmp_path).read_bytes().startswith(b"\x89PNG")
    rows = [
        {"step": 0, "split": "val", "loss": 4.0, "bpc": 6.0, "train_loss": None},
        {"step": 1, "split": "train", "loss": 3.0, "lr": 0.1},
        {"step": 1, "split": "val", "loss": 3.5, "bpc": 5.0, "train_loss": 3.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_loss(tmp_path).read_bytes().startswith(b"\x89PNG")
    text = add_training(Report("Run"), tmp_path).text()
    assert "5.000 bits per character at step 1" in text
    assert "| 1 | 3.0000 | 3.5000 | 5.0000 |" in text
