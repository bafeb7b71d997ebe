"""What the loop says: lines that keep their columns, and a terminal that may go away."""

import contextlib
import fcntl
import io
import math
import os
import pty
import struct
import sys
import termios

import pytest

from backend.training.log import RunLog, read_metrics, read_status
from backend.training.screen import Progress, clock, mfu, step_line

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
    shown = ""
    with contextlib.suppress(OSError):  # Linux ends so what macOS ends with nothing
        while piece := os.read(ours, 65536).decode():
            shown += piece
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
