"""What the loop says: one line per step, a bar on a terminal, and a run that outlives its terminal.

No torch here.
"""

import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self, TextIO

from tqdm import tqdm


class Screen:
    """A stream that may go away without taking the run along.

    A closed terminal is EIO, a pipe that nobody reads BrokenPipeError, a stream that somebody
    closed ValueError. The first of them is told to `when_lost`; whatever is written afterwards,
    here or by a plain print, goes nowhere.
    """

    encoding = "utf-8"  # tqdm asks, to draw its bar

    def __init__(self, stream: TextIO | None, when_lost: Callable[[], None] = lambda: None) -> None:
        self.lost = stream is None  # the program began with it closed
        self.stream = stream or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        self.when_lost = when_lost

    def write(self, text: str) -> None:
        self._try(lambda: self.stream.write(text))

    def flush(self) -> None:
        self._try(self.stream.flush)

    def is_terminal(self) -> bool:
        """Not one without a width, as some consoles are: there a bar would be invisible."""
        try:
            return self.stream.isatty() and os.get_terminal_size(self.fileno()).columns > 0
        except (OSError, ValueError):  # closed, or no real file
            return False

    def isatty(self) -> bool:
        return not self.lost and self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def _try(self, act: Callable[[], object]) -> None:
        if self.lost:
            return
        try:
            act()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not self.stream.closed:
                raise  # a bug, not a stream that is gone
            self.lost = True
            self._sink()
            self.when_lost()

    def _sink(self) -> None:
        """Others print too, and Python flushes at its exit: let that go to the void."""
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        except (OSError, ValueError):  # closed, or no real file
            for name in ("stdout", "stderr"):
                if getattr(sys, name) is self.stream:
                    void = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
                    setattr(sys, name, void)  # for as long as the program runs


class Progress:
    """All that the loop says. On a terminal one bar, with evaluations above it; else plain lines.

    Args:
        max_iters: where the bar ends.
        step: where it begins.
        when_lost: called once when the terminal is gone, such as RunLog.lost_screen; the run goes
            on.
        quiet: say nothing, as all processes of torchrun but one.
    """

    def __init__(
        self,
        max_iters: int,
        *,
        step: int = 0,
        when_lost: Callable[[], None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        self.quiet = quiet
        self.out = sys.stdout if isinstance(sys.stdout, Screen) else Screen(sys.stdout)
        self.err = Screen(sys.stderr)
        for screen in (self.out, self.err):
            screen.when_lost = when_lost
        if self.out.lost:
            when_lost()
        self.bar: _Bar | None = None
        if not quiet and self.out.is_terminal():
            self.bar = _Bar(
                total=max_iters, initial=step, file=self.out, disable=False, dynamic_ncols=True,
                bar_format="{bar:12} {desc}",
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def line(self, step: int, text: str) -> None:
        """The line of a step; on a terminal it takes the place of the one before."""
        if self.bar is None:
            self.say(text)
        else:
            self.bar.n = step
            self.bar.set_description_str(text)

    def say(self, text: str) -> None:
        """A line that stays, such as an evaluation's."""
        self._put(self.out, text)

    def warn(self, text: str) -> None:
        """A line on stderr. Not from a signal handler: it may have interrupted another line."""
        self._put(self.err, text)

    def close(self) -> None:
        """The last step's line stays where it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _put(self, screen: Screen, text: str) -> None:
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.clear()
        screen.write(text + "\n")
        screen.flush()
        if self.bar is not None:
            self.bar.refresh()


class _Bar(tqdm):  # type: ignore[type-arg]  # no generic at run time
    monitor_interval = 0  # no thread that redraws it behind our back


def step_line(
    *,
    step: int,
    max_iters: int,
    epoch: float,
    loss: float,
    chars_per_token: float,
    lr: float,
    grad_norm: float,
    tokens_per_s: float,
    mfu: float | None,
    seconds_left: float,
) -> str:
    """One step in words whose columns keep their width, so that a log reads as a table.

    Args:
        loss: nats per token of this step's batch.
        chars_per_token: of the training split, to say the loss in bits per character too. It is
            near what validation measures, not the same: header tokens count here.
        mfu: share of the device's peak; None, where that is unknown, leaves the column out.
    """
    bpc = loss / math.log(2) / chars_per_token
    parts = [
        f"step {step:>{len(str(max_iters))}}/{max_iters}",
        f"epoch {epoch:6.2f}",
        f"loss {loss:7.4f}",
        f"{bpc:6.3f} bits/char",
        f"lr {lr:.2e}",
        f"norm {grad_norm:6.2f}",
        f"{tokens_per_s:>9,.0f} tokens/s",
    ]
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:4.1f} %")
    return "  ".join([*parts, f"{clock(seconds_left):>8} left"])


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# Peak TFLOP/s of dense matrix products in bf16 (fp16 where there is no bf16) with fp32 sums, by
# the name that CUDA gives the whole device without its brand. Data sheets since Ampere print the
# figure of sparse matrices, twice as high. What stands here under no name (A10G, the laptop cards,
# GPUs made for one customer, MIG slices) shows no MFU rather than a wrong one.
PEAK_TFLOPS = {
    r"V100-SXM2-\d+GB": 125,  # V100 data sheet, fp16
    r"V100-PCIE-\d+GB": 112,  # the same
    r"T4": 65,  # T4 data sheet, fp16
    r"A100-(SXM4|PCIE)-(40|80)GB|A100 80GB PCIe": 312,  # A100 data sheet
    r"A30": 165,  # A30 data sheet
    r"A40": 150,  # A40 data sheet: 149.7
    r"A10": 125,  # A10 data sheet
    r"RTX A6000": 155,  # RTX A6000 data sheet: 309.7 sparse
    r"RTX 3090": 71,  # GA102 white paper, appendix A
    r"L4": 121,  # L4 data sheet: 242 sparse
    r"L40": 181,  # L40 data sheet
    r"L40S": 362,  # L40S data sheet
    r"RTX 4090": 165,  # Ada white paper, appendix A: 165.2
    r"H100 80GB HBM3": 989,  # H100 data sheet, SXM: 1,979 sparse
    r"H100 PCIe": 756,  # H100 data sheet, PCIe: 1,513 sparse
    r"H100 NVL": 835,  # H100 data sheet, NVL: 1,671 sparse
    r"H200": 989,  # H200 data sheet, SXM: 1,979 sparse
    r"B200": 2250,  # HGX B200 data sheet: 36 PFLOP/s sparse for eight
}


def mfu(flops_per_s: float, device_name: str) -> float | None:
    """Share of one device's peak in half precision; None where the peak is not known.

    Args:
        flops_per_s: of one device, as models/gpt.py counts them.
        device_name: as torch.cuda.get_device_name() says it.
    """
    name = re.sub(r"\b(NVIDIA|Tesla|GeForce) ", "", device_name).strip()
    peaks = [tflops for pattern, tflops in PEAK_TFLOPS.items() if re.fullmatch(pattern, name)]
    return round(flops_per_s / (peaks[0] * 1e12), 4) if peaks else None
