"""Runs side by side: their metrics.jsonl and evaluation.json -> one table, one picture.

No torch here: runs are read without loading them.
"""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import DataError
from backend.evaluation.baselines import find
from backend.report import Report
from backend.storage import Summary, atomic_write, write_json

# Keys of config.json that say where a run was, not what it was.
PLACES = {"out_dir", "origins", "init_from", "overwrite", "log_to", "wandb_run_name", "threads"}


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


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the fiftieth of the values around each, fewer near the ends so that it never lags;
    few values stay as they are."""
    sums, n = [0.0, *itertools.accumulate(values)], len(values)
    reach = [min(i, n - 1 - i, n // 100) for i in range(n)]
    return [(sums[i + k + 1] - sums[i - k]) / (2 * k + 1) for i, k in enumerate(reach)]


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself."""

    name: str
    val: list[dict[str, Any]]  # rows of evaluations, each with `trained`: seconds of training then
    tokens: int  # trained on
    seconds: float  # of training, evaluations left out
    settings: Mapping[str, Any]
    evaluation: Mapping[str, Any]  # evaluation.json

    @classmethod
    def read(cls, folder: Path, name: str) -> "Run":
        """
        Raises:
            DataError: it holds no run that was evaluated.
        """
        rows = read_metrics(folder)
        seconds = tokens = 0.0
        last, val = 0, []
        for row in rows:
            if row["split"] == "train" and row.get("seconds"):
                spent = (row["step"] - last) * row["seconds"]
                seconds, tokens, last = (
                    seconds + spent,
                    tokens + spent * row["tokens_per_s"],
                    row["step"],
                )
            elif row["split"] == "val" and row.get("bpc") is not None:
                val.append({**row, "trained": seconds})
        if not val:
            raise DataError(
                f"{folder} holds no evaluation" if folder.is_dir() else f"there is no {folder}",
                why="its metrics.jsonl is what runs are compared by",
                mend="--compare out/a out/b, with the folders of runs",
            )
        return cls(name, val, round(tokens), seconds, _json(folder / "config.json"),
                   _json(folder / "evaluation.json"))  # fmt: skip

    def row(self) -> dict[str, Any]:
        """Its line of the table."""
        best = min(self.val, key=lambda row: row["bpc"])
        loss: Mapping[str, Any] = self.evaluation.get("loss", {})
        written = self.evaluation.get("lyrics", {}).get("figures", {}).get("model", {})
        means = {key: found["mean"] for key, found in written.items()}
        return {
            "run": self.name,
            "dataset": self.settings.get("dataset"),
            "steps": self.val[-1]["step"],
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "best bpc": best["bpc"],
            "at step": best["step"],
            "last bpc": self.val[-1]["bpc"],
            "evaluated bpc": loss.get("bpc"),
            "interval": loss.get("bpc_interval"),
            **{name: means.get(name) for name in ("end_rhyme_rate", "repeated_lines", "non_words")},
        }


def compare(folders: Sequence[str]) -> Summary:
    """comparison.md, .png and .json in the folder that holds the first run; the table on screen.

    Raises:
        DataError: one of them holds no run.
    """
    paths = [Path(os.path.normpath(folder)) for folder in folders]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [path.as_posix() for path in paths]
    runs = [Run.read(path, name) for path, name in zip(paths, names, strict=True)]
    place = paths[0].parent
    rows = [run.row() for run in runs]
    head = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    report = Report("Runs compared")
    report.prose(
        "Bits per character of the whole validation split; they compare across tokenizers where "
        "the same songs are held out. Seconds are of training alone."
    )
    report.table(head, [[_shown(row[key]) for key in head] for row in rows])
    if differing := _differing(runs):
        report.section("What differs")
        report.table(
            ["setting", *names], [[key, *map(str, each)] for key, each in differing.items()]
        )
    _plot(runs, place / "comparison.png")
    report.image("comparison.png", "Validation over steps and over seconds of training")
    report.write(place / "comparison.md")
    write_json(place / "comparison.json", {"format": 1, "runs": rows})
    print(report.text())
    return Summary("compare", place, {"runs": len(runs)})


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key) for run in runs] for key in keys if key not in PLACES}
    return {key: each for key, each in values.items() if any(v != each[0] for v in each)}


def _json(path: Path) -> Mapping[str, Any]:
    """An object of a file; empty where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return "–".join(f"{v:.4f}" for v in value)
    if isinstance(value, float):
        return f"{value:.4f}" if value < 100 else f"{value:,.0f}"
    return "" if value is None else value


def _plot(runs: Sequence[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for axis, key, label in zip(
        axes, ("step", "trained"), ("step", "seconds of training"), strict=True
    ):
        for run in runs:
            axis.plot(
                [row[key] for row in run.val], [row["bpc"] for row in run.val], "o-", markersize=3,
                label=run.name,
            )  # fmt: skip
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    datasets = {run.settings.get("dataset") for run in runs}
    if len(datasets) == 1 and isinstance(dataset := datasets.pop(), str):
        for name, baseline in find(dataset).items():
            axes[1].axhline(baseline.bpc, color="grey", linestyle=":", linewidth=1)
            axes[1].text(1, baseline.bpc, f"{name} ", ha="right", va="bottom", color="grey",
                         fontsize="small", transform=axes[1].get_yaxis_transform())  # fmt: skip
    axes[0].set_ylabel("validation (bits per character)")
    axes[0].legend()
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
