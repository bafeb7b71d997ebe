"""What a run shows and keeps: metrics.jsonl, one line per step, status.json, loss.png, its report.

No torch here: the flow reads a run without loading it.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backend.report import Report
from backend.storage import atomic_write, write_json

BEAT_S = 10.0


class RunLog:
    """The files of one run while it trains; a context manager, so status.json tells the end."""

    def __init__(
        self, out_dir: Path, *, resumed_at: int | None, trackers: Iterable[Any] = ()
    ) -> None:
        self.out_dir, self.step = out_dir, resumed_at or 0
        self.trackers = list(trackers)
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._beat = 0.0
        path = out_dir / "metrics.jsonl"
        if resumed_at is not None:
            # What came after the checkpoint is about to happen again: no step twice. The evaluation
            # at its very step too, since a step is saved before it is evaluated.
            keep = [
                row
                for row in read_metrics(out_dir)
                if row["step"] < resumed_at or (row["step"] == resumed_at and row["split"] != "val")
            ]
            with atomic_write(path) as file:
                file.writelines(json.dumps(row) + "\n" for row in keep)
        self._file = path.open("a", encoding="utf-8")

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
        finite = {k: v if _finite(v) else None for k, v in values.items()}  # NaN is not JSON
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        for tracker in self.trackers:
            tracker.log(values)

    def beat(self, step: int) -> None:
        """Say in status.json, every ten seconds of training, that the run is alive."""
        self.step = step
        if time.monotonic() - self._beat > BEAT_S:
            self.status("running")

    def status(self, state: str, reason: str | None = None) -> None:
        self._beat = time.monotonic()
        write_json(
            self.out_dir / "status.json",
            {
                "state": state,
                "step": self.step,
                "reason": reason,
                "pid": os.getpid(),
                "started": self.started,
                "heartbeat": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )


class Wandb:
    """Weights & Biases. Offline unless WANDB_API_KEY is set: it never asks for a login."""

    def __init__(self, project: str, name: str, settings: Mapping[str, Any]) -> None:
        from backend.errors import ConfigError

        try:
            import wandb
        except ImportError:
            raise ConfigError(
                "log_to=wandb needs the package wandb", mend="pip install -e .[wandb]"
            ) from None
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._run = wandb.init(project=project, name=name, config=dict(settings), mode=mode)

    def log(self, row: Mapping[str, Any]) -> None:
        named = {f"{row['split']}/{k}": v for k, v in row.items() if isinstance(v, int | float)}
        self._run.log(named, step=row["step"])

    def finish(self) -> None:
        self._run.finish()


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def read_status(out_dir: Path) -> dict[str, Any]:
    """status.json; empty where there is none."""
    try:
        status = json.loads((out_dir / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def read_metrics(out_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a last line cut off by a crash is left out."""
    path = out_dir / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def plot_loss(out_dir: Path) -> Path:
    """loss.png: training and validation in nats per token, and the learning rate under them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(out_dir)
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(4, 1), layout="constrained"
    )
    for split, style in (("train", "-"), ("val", "o-")):
        points = [(row["step"], row["loss"]) for row in rows if row["split"] == split]
        if points:
            top.plot(*zip(*points, strict=True), style, markersize=4, label=split)
    top.set_ylabel("loss (nats per token)")
    top.set_title(out_dir.name)
    if top.has_data():
        top.legend()
    top.grid(alpha=0.3)
    rates = [(row["step"], row["lr"]) for row in rows if row["split"] == "train"]
    if rates:
        bottom.plot(*zip(*rates, strict=True), color="grey")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    path = out_dir / "loss.png"
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
    return path


def add_training(report: Report, out_dir: Path) -> Report:
    """The training section of a report: how the losses went, and the picture."""
    rows = [r for r in read_metrics(out_dir) if r["split"] == "val" and r["bpc"] is not None]
    report.section("Training")
    if rows:
        best = min(rows, key=lambda row: row["bpc"])
        report.prose(
            f"Best validation: {best['bpc']:.3f} bits per character at step {best['step']}."
        )
        report.table(
            ["step", "train loss", "validation loss", "bits per character"],
            [
                [
                    row["step"],
                    f"{row['train_loss']:.4f}" if row.get("train_loss") else "",
                    f"{row['loss']:.4f}",
                    f"{row['bpc']:.4f}",
                ]
                for row in rows
            ],
        )
    return report.image("loss.png", "Training and validation loss")
