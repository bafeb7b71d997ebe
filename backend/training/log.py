"""What a run keeps: metrics.jsonl, status.json, loss.png, its report.

    metrics.jsonl   one row per logged step (split: train) and per evaluation (split: val)
    health.jsonl    with --health, one row per logged step (training/health.py)
    status.json     state, step, heartbeat, and what else is worth a line in the report

No torch here: the flow reads a run without loading it.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backend.errors import ConfigError
from backend.evaluation.baselines import Baseline, find
from backend.evaluation.compare import read_metrics, read_rows, smoothed
from backend.report import Report
from backend.storage import atomic_write, write_json
from backend.training.screen import clock

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
        if row["step"] < step or (row["step"] == step and row.get("split", "train") == "train")
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
