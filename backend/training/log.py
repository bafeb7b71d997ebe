"""What a run shows and keeps: metrics.jsonl, status.json, one line per step, loss.png, its report.

    metrics.jsonl   one row per logged step (split: train) and per evaluation (split: val)
    health.jsonl    with --health, one row per logged step (training/health.py)
    status.json     state, step, heartbeat, and what else is worth a line in the report

No torch here: the flow reads a run without loading it.
"""

import itertools
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

from backend.errors import ConfigError
from backend.evaluation.baselines import Baseline, find
from backend.report import Report
from backend.storage import atomic_write, write_json

BEAT_S = 10.0

# --- the files of a run --------------------------------------------------------------------------


class RunLog:
    """The files of one run while it trains; a context manager, so status.json tells the end."""

    def __init__(
        self, out_dir: Path, *, resumed_at: int | None, trackers: Iterable[Any] = ()
    ) -> None:
        """resumed_at: the step that a resumed run goes on from; None for a new run."""
        self.out_dir, self.step = out_dir, resumed_at or 0
        self.trackers = list(trackers)
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.notes: dict[str, str] = {}
        self._beat, self._screen_lost = 0.0, False
        if resumed_at is None:
            (out_dir / "health.jsonl").unlink(missing_ok=True)
        else:
            self.notes = read_status(out_dir).get("notes", {})
            for name in ("metrics.jsonl", "health.jsonl"):
                _cut(out_dir / name, resumed_at)
        self._file = (out_dir / "metrics.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        self.status("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()
        for tracker in self.trackers:
            tracker.finish()
        if error is None:
            self.status("done")
        else:
            stopped = not isinstance(error, Exception)  # Ctrl-C and SIGTERM
            self.status("interrupted" if stopped else "failed", str(error) or type(error).__name__)

    def row(self, **values: Any) -> None:
        """One row of metrics.jsonl: step, split, loss and what else is known."""
        self._file.write(json.dumps(_finite(values)) + "\n")
        self._file.flush()
        for tracker in self.trackers:
            tracker.log(values)

    def health(self, row: Mapping[str, Any]) -> None:
        """One row of health.jsonl, as Health.after gives it."""
        with (self.out_dir / "health.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row)) + "\n")
        flat = {
            f"{key}.{group}": value
            for group, values in row["groups"].items()
            for key, value in values.items()
        }
        for tracker in self.trackers:
            tracker.log({"step": row["step"], "split": "health", "clipped": row["clipped"], **flat})

    def note(self, **facts: str) -> None:
        """Facts for the report, such as device="cpu, bfloat16"; a later one of a name replaces."""
        self.notes |= {key.replace("_", " "): value for key, value in facts.items()}
        self.status("running")  # at once: the report is written before this log is closed

    def lost_screen(self) -> None:
        """Nobody can read the run any more: status.json says so, once."""
        if not self._screen_lost:
            self._screen_lost = True
            self.status("running")

    def beat(self, step: int) -> None:
        """Say in status.json, every ten seconds of training, that the run is alive."""
        self.step = step
        if time.monotonic() - self._beat > BEAT_S:
            self.status("running")

    def status(self, state: str, reason: str | None = None) -> None:
        self._beat = time.monotonic()
        said: dict[str, Any] = {
            "state": state,
            "step": self.step,
            "reason": reason,
            "pid": os.getpid(),
            "started": self.started,
            "heartbeat": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self._screen_lost:
            said["screen"] = "lost"
        if self.notes:
            said["notes"] = self.notes
        write_json(self.out_dir / "status.json", said)


def _cut(path: Path, step: int) -> None:
    """Drop the rows of what came after the checkpoint, which is about to happen again: no step
    twice. The evaluation at its very step too, since a step is saved before it is evaluated."""
    if not path.is_file():
        return
    keep = [
        row
        for row in read_rows(path)
        if row["step"] < step or (row["step"] == step and row.get("split") != "val")
    ]
    with atomic_write(path) as file:
        file.writelines(json.dumps(row) + "\n" for row in keep)


def _finite(value: Any) -> Any:
    """The same without NaN and infinities, which are not JSON."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_status(out_dir: Path) -> dict[str, Any]:
    """status.json; empty where there is none."""
    try:
        status = json.loads((out_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, none where there is no file; a last line cut off by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def read_metrics(out_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    return read_rows(out_dir / "metrics.jsonl")


# --- trackers ------------------------------------------------------------------------------------


class Wandb:
    """Weights & Biases. Offline unless WANDB_API_KEY is set: it never asks for a login."""

    def __init__(self, project: str, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(
                "log_to=wandb needs the package wandb", mend="pip install -e .[wandb]"
            ) from None
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._run = wandb.init(project=project, name=name, config=dict(settings), mode=mode)

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(_named(row), step=row["step"])

    def finish(self) -> None:
        self._run.finish()


class Tensorboard:
    """Event files in <out_dir>/tensorboard; look at them with `tensorboard --logdir=out`."""

    def __init__(self, out_dir: Path, *, resumed_at: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "log_to=tensorboard needs the package tensorboard",
                mend="pip install -e .[tensorboard]",
            ) from None
        # What a killed run wrote after the checkpoint is hidden: no step twice.
        after = None if resumed_at is None else resumed_at + 1
        writer: Any = SummaryWriter
        self._writer = writer(str(out_dir / "tensorboard"), purge_step=after)

    def log(self, row: Mapping[str, Any]) -> None:
        for name, value in _named(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def finish(self) -> None:
        self._writer.close()


def _named(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, as `train/loss`."""
    return {
        f"{row['split']}/{k}": v
        for k, v in row.items()
        if isinstance(v, int | float) and k != "step"
    }


# --- the screen ----------------------------------------------------------------------------------


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


# --- the end of a run ----------------------------------------------------------------------------


def plot_loss(out_dir: Path, baselines: Mapping[str, Baseline] | None = None) -> Path:
    """loss.png: training and validation in nats per token, and the learning rate under them.

    Args:
        baselines: levels to draw; None takes those that were measured beside the run's bins.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read_metrics(out_dir) if row.get("loss") is not None]
    train = [row for row in rows if row["split"] == "train"]
    val = [row for row in rows if row["split"] == "val"]
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    if train:
        steps, losses = [row["step"] for row in train], [row["loss"] for row in train]
        [raw] = top.plot(steps, losses, linewidth=0.6, alpha=0.4)
        top.plot(steps, smoothed(losses), color=raw.get_color(), label="train, smoothed")
        bottom.plot(steps, [row["lr"] for row in train], color="grey")
    if val:
        best = min(val, key=lambda row: row["loss"])
        style = "o-" if len(val) <= 40 else "-"
        top.plot(
            [row["step"] for row in val], [row["loss"] for row in val], style, markersize=3,
            color="C1", label="validation",
        )  # fmt: skip
        top.plot(
            best["step"], best["loss"], "*", markersize=12, color="C1",
            label=f"best: {best['loss']:.3f} at step {best['step']:,}",
        )  # fmt: skip
    for name, baseline in (_floors(out_dir) if baselines is None else baselines).items():
        if baseline.loss is not None and (train or val):
            top.axhline(baseline.loss, color="grey", linestyle=":", linewidth=1)
            top.text(
                1, baseline.loss, f"{name} {baseline.loss:.2f} ", ha="right", va="bottom",
                transform=top.get_yaxis_transform(), color="grey", fontsize="small",
            )  # fmt: skip
    top.set_ylabel("loss (nats per token)")
    top.set_title(out_dir.name)
    if train or val:
        top.legend()
    top.grid(alpha=0.3)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    path = out_dir / "loss.png"
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
    return path


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the fiftieth of the values around each, fewer near the ends so that it never lags;
    few values stay as they are."""
    sums, n = [0.0, *itertools.accumulate(values)], len(values)
    reach = [min(i, n - 1 - i, n // 100) for i in range(n)]
    return [(sums[i + k + 1] - sums[i - k]) / (2 * k + 1) for i, k in enumerate(reach)]


def add_training(
    report: Report, out_dir: Path, baselines: Mapping[str, Baseline] | None = None
) -> Report:
    """The training section of a report: how the losses went, beside what knows nothing, the time
    it took, what was noted on the way, and the picture.

    Args:
        baselines: as plot_loss takes them.
    """
    rows = read_metrics(out_dir)
    val = [r for r in rows if r["split"] == "val" and r["bpc"] is not None]
    report.section("Training")
    if val:
        best = min(val, key=lambda row: row["bpc"])
        report.prose(
            f"Best validation: {best['bpc']:.3f} bits per character at step {best['step']}."
        )
        measured = [
            [
                row["step"],
                f"{row['train_loss']:.4f}" if row.get("train_loss") else "",
                f"{row['loss']:.4f}",
                f"{row['bpc']:.4f}",
            ]
            for row in _few(val, best)
        ]
        floors = _floors(out_dir) if baselines is None else baselines
        without = [
            [name, "", "" if b.loss is None else f"{b.loss:.4f}", f"{b.bpc:.4f}"]
            for name, b in floors.items()
        ]
        report.table(
            ["step", "train loss", "validation loss", "bits per character"], measured + without
        )
    if facts := _effort(rows) | read_status(out_dir).get("notes", {}):
        report.prose("\n".join(f"- {name}: {fact}" for name, fact in facts.items()))
    return report.image("loss.png", "Training and validation loss")


SHOWN = 15  # evaluations of a long run that the report lists


def _few(val: list[dict[str, Any]], best: dict[str, Any]) -> list[dict[str, Any]]:
    """First, last, best, and some between."""
    n = len(val)
    places = {round(i * (n - 1) / (SHOWN - 1)) for i in range(SHOWN)} | {val.index(best)}
    return val if n <= SHOWN else [val[i] for i in sorted(places)]


def _effort(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Tokens and time of all logged steps, evaluations left out; each row speaks for the steps
    since the one before."""
    tokens = seconds = 0.0
    last = 0
    for row in rows:
        if row["split"] == "train" and "seconds" in row:
            spent = (row["step"] - last) * row["seconds"]
            seconds, tokens = seconds + spent, tokens + spent * row["tokens_per_s"]
            last = row["step"]
    if not seconds:
        return {}
    rate = f"{tokens:,.0f} tokens, {tokens / seconds:,.0f} a second"
    return {"training": f"{clock(seconds)} without evaluations, {rate}"}


def _floors(out_dir: Path) -> dict[str, Baseline]:
    """The baselines that were measured beside the run's bins, if any."""
    with suppress(OSError, ValueError, KeyError):
        config = json.loads((out_dir / "config.json").read_text(encoding="utf-8"))
        return find(config["dataset"])
    return {}
