"""Checkpoints: the one file that knows their layout.

    out/<run>/checkpoints/
      index.json                 {last, best, best_val_bpc}; where it disagrees, the folders win
      step_00002000/
        model.safetensors  model.json          weights; shape, vocabulary, step
        trainer.safetensors  trainer.json      optimizer, RNG; while among the last two
        COMPLETE                               {file: [bytes, sha256]}, written last

A step is written as .tmp-step_..., fsynced, and renamed; it is never changed afterwards (but for
the trainer files, which go when two newer steps stand). Kept: best and the last two. No pickle
anywhere.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from backend.config.schema import ModelConfig
from backend.data import tokenizers
from backend.errors import CheckpointError
from backend.models.gpt import GPT
from backend.storage import sha256, write_json

FORMAT = 1
KEPT = 2


@dataclass(frozen=True)
class Best:
    """The best step by validation, in bits per character."""

    step: int
    bpc: float


@dataclass(frozen=True)
class Step:
    """A complete step folder."""

    folder: Path
    step: int

    @property
    def run(self) -> Path:
        return self.folder.parent.parent


def save(
    out_dir: Path,
    model: GPT,
    *,
    step: int,
    run: Mapping[str, Any],
    trainer: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]],
    best: Best | None,
) -> Step:
    """Write a step atomically and let old ones go.

    Args:
        run: facts kept in model.json, such as the hash of the data.
        trainer: tensors and JSON values that continue the run exactly.
        best: the best step so far, which is kept.
    """
    folder = out_dir / "checkpoints" / f"step_{step:08d}"
    if (folder / "COMPLETE").is_file():
        return Step(folder, step)  # this very step was saved before: never changed afterwards
    temporary = folder.with_name(f".tmp-{folder.name}")
    for half in folder.parent.glob(".tmp-step_*"):  # of a save that was killed
        shutil.rmtree(half, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
    write_json(
        temporary / "model.json",
        {
            "format": FORMAT,
            "step": step,
            "vocab_size": model.vocab_size,
            "model": model.config.public(),
            **run,
        },
    )
    tensors, values = trainer
    values = {**values, "best": best and asdict(best)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / "trainer.safetensors")
    write_json(temporary / "trainer.json", {"format": FORMAT, "step": step, **values})
    files = sorted(temporary.iterdir())
    for file in files:
        _fsync(file)
    write_json(temporary / "COMPLETE", {f.name: [f.stat().st_size, sha256(f)] for f in files})
    _fsync(temporary)
    shutil.rmtree(folder, ignore_errors=True)  # a step without COMPLETE: half of an older attempt
    temporary.rename(folder)
    _fsync(folder.parent)
    write_index(out_dir, best)
    return Step(folder, step)


def write_index(out_dir: Path, best: Best | None) -> None:
    """Name the best step, then delete what is neither best nor among the last two."""
    standing = steps(out_dir)
    write_json(
        out_dir / "checkpoints" / "index.json",
        {
            "last": standing[-1].step,
            "best": best and best.step,
            "best_val_bpc": best and best.bpc,
        },
    )
    for old in standing[:-KEPT]:
        if best is None or old.step != best.step:
            (old.folder / "COMPLETE").unlink()  # first: half a step is none
            shutil.rmtree(old.folder)
        else:
            for name in ("trainer.safetensors", "trainer.json"):
                (old.folder / name).unlink(missing_ok=True)


def read_index(out_dir: Path) -> dict[str, Any]:
    """index.json, empty where there is none or it cannot be read."""
    try:
        index = json.loads((out_dir / "checkpoints" / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def steps(out_dir: Path) -> list[Step]:
    """The complete steps of a run, oldest first."""
    found = (c.parent for c in (out_dir / "checkpoints").glob("step_*/COMPLETE"))
    named = (f for f in found if f.name.removeprefix("step_").isdecimal())  # not step_1.bak
    return sorted((Step(f, int(f.name.removeprefix("step_"))) for f in named), key=lambda s: s.step)


def find(path: Path, which: str = "best") -> Step:
    """The step that `which` names (best, last, a number) in a run folder; or a step folder itself.

    Raises:
        CheckpointError: nothing there, or not that step.
    """
    if (path / "COMPLETE").is_file() and path.name.startswith("step_"):
        return Step(path, int(path.name.removeprefix("step_")))
    standing = {s.step: s for s in steps(path)}
    if not standing:
        raise CheckpointError(
            f"no checkpoint in {path}",
            mend=f"python -m backend.training.train config/lyrics_cpu.py --out_dir={path}",
        )
    last = max(standing)
    if which == "last":
        return standing[last]
    if which == "best":
        return standing.get(read_index(path).get("best") or last, standing[last])
    if which.isdigit() and int(which) in standing:
        return standing[int(which)]
    raise CheckpointError(
        f"no checkpoint {which!r} in {path}",
        mend="--checkpoint=best, last, or one of: " + ", ".join(map(str, sorted(standing))),
    )


def newest_run(root: Path = Path("out")) -> Path:
    """The run under `root` whose newest checkpoint is the newest of all."""
    runs = [(s[-1].folder.stat().st_mtime, run) for run in root.glob("*") if (s := steps(run))]
    if not runs:
        raise CheckpointError(
            f"no run with a checkpoint under {root}/",
            mend="make lyrics, or python -m backend.training.train config/lyrics_cpu.py",
        )
    return max(runs)[1]


def load_model(step: Step, device: torch.device | str = "cpu") -> GPT:
    """The model of a step, in eval mode.

    Raises:
        CheckpointError: damaged, of a newer format, or with weights that do not fit its shape.
    """
    _verify(step, "model")
    facts = _read_json(step.folder / "model.json")
    try:
        model = GPT(ModelConfig(**facts["model"]), facts["vocab_size"])
        weights = load_file(step.folder / "model.safetensors")
        weights["lm_head.weight"] = weights["transformer.wte.weight"]  # tied, stored once
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{step.folder} cannot be loaded: {error}", mend="--checkpoint=last, or another step"
        ) from error
    return model.to(device).eval()


def load_trainer(step: Step) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and values that continue the run exactly."""
    if not (step.folder / "trainer.json").is_file():
        raise CheckpointError(
            f"{step.folder} has weights but no optimizer to resume with",
            mend=f"--init_from={step.folder} starts a new run from its weights",
        )
    _verify(step, "trainer")
    return load_file(step.folder / "trainer.safetensors"), _read_json(step.folder / "trainer.json")


def load_tokenizer(step: Step) -> tokenizers.Tokenizer:
    """The tokenizer that travels with the run."""
    return tokenizers.load(step.run / "tokenizer.json")


def describe(step: Step) -> dict[str, Any]:
    """model.json."""
    return _read_json(step.folder / "model.json")


def _verify(step: Step, part: str) -> None:
    """Size and sha256 of the files `part`.* against COMPLETE."""
    for name, (size, digest) in _read_json(step.folder / "COMPLETE").items():
        file = step.folder / name
        if name.startswith(part) and not (
            file.is_file() and file.stat().st_size == size and sha256(file) == digest
        ):
            raise CheckpointError(
                f"{file} is damaged: it is not what was written",
                mend=f"delete {step.folder}; the next newest step is used then",
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict) or value.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path} is of a format this version does not read", mend="update lyrics-pipeline"
        )
    return value


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle on folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows: writable only
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
