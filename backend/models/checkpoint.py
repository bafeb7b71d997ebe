"""Checkpoints: the one file that knows their layout, and the one loader of weights.

    out/<run>/
      base/                        LoRA runs only: the weights that the adapters belong to
      checkpoints/
        index.json                 {last, best, best_val_bpc}; where it disagrees, the folders win
        step_00002000/
          model.safetensors  model.json          weights; shape, vocabulary, step
          trainer.safetensors  trainer.json      optimizer, RNG; while among the last two
          COMPLETE                               {file: [bytes, sha256]}, written last

A LoRA step has adapter_model.safetensors and adapter_config.json, in peft's format, in place of
model.safetensors. A step is written as .tmp-step_..., fsynced, and renamed; it is never changed
afterwards (but for the trainer files, which go when two newer steps stand). Kept: best and the last
two. No pickle anywhere.

Weights come from a run folder, one step, an exported folder, a Hugging Face folder or hub id, or
nanoGPT's ckpt.pt: `find` says which, `read` reads any of them.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from backend.config.schema import ModelConfig
from backend.data import tokenizers
from backend.data.bins import Bins
from backend.errors import CheckpointError, first_line
from backend.models import huggingface, lora, nanogpt
from backend.models.gpt import GPT
from backend.models.weights import Weights, shape_from
from backend.storage import sha256, share, write_json

FORMAT = 1
KEPT = 2
GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
BASE = "lyrics-base"
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@dataclass(frozen=True)
class Best:
    """The best step by validation, in bits per character."""

    step: int
    bpc: float


@dataclass(frozen=True)
class Source:
    """Where weights come from: found, not yet read."""

    path: Path  # a step or exported folder, a Hugging Face folder, a ckpt.pt
    step: int = 0
    kind: Literal["ours", "huggingface", "nanogpt"] = "ours"
    name: str = ""  # the hub id, where the path says less

    def __str__(self) -> str:
        at = f", step {self.step}" if self.kind == "ours" else ""
        return f"{self.run if self.is_step else self.name or self.path}{at}"

    @property
    def is_step(self) -> bool:
        """A step within a run folder?"""
        return self.kind == "ours" and self.path.parent.name == "checkpoints"

    @property
    def run(self) -> Path:
        """The run folder; for weights from elsewhere, the one where their lyrics would go."""
        if self.is_step:
            return self.path.parent.parent
        if (self.path.absolute().parent / "checkpoints").is_dir():
            return self.path.parent  # an export within its run
        path = Path(os.path.normpath(self.path.absolute()))
        name = self.name or (path.parent if path.is_file() else path).name
        return Path("out") / re.sub(r"[^\w.-]+", "-", name).strip("-.")

    @property
    def files(self) -> list[Path]:
        """The files that hold the weights."""
        if self.path.is_file():
            return [self.path]
        return sorted(
            f for f in self.path.iterdir() if re.search(r"model.*\.(safetensors|bin)$", f.name)
        )


def save(
    out_dir: Path,
    model: GPT,
    *,
    step: int,
    run: Mapping[str, Any],
    trainer: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]],
    best: Best | None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Source:
    """Write a step atomically and let old ones go. Of a model with LoRA, the adapters; their base
    must stand in <out_dir>/base (`save_weights`).

    Args:
        run: facts kept in model.json, such as the hash of the data.
        trainer: tensors and JSON values that continue the run exactly.
        best: the best step so far, which is kept.
        weights: the model's, gathered where each process holds a part of them.
    """
    folder = out_dir / "checkpoints" / f"step_{step:08d}"
    if (folder / "COMPLETE").is_file():
        return Source(folder, step)  # this very step was saved before: never changed afterwards
    tensors, values = trainer
    values = {"format": FORMAT, "step": step, **values, "best": best and asdict(best)}
    adapters = lora.adapters(model)
    with _making(folder) as temporary:
        if adapters:
            save_tensors(adapters, temporary / ADAPTER)
            rank, alpha = lora.rank_and_alpha(model)
            settings = lora.peft_config(rank, alpha, str(out_dir / "base"))
            write_json(temporary / "adapter_config.json", settings)
            run = {**run, "lora": {"rank": rank, "alpha": alpha}}
        else:
            save_tensors(model.weights() if weights is None else weights, temporary / WEIGHTS)
        write_json(temporary / "model.json", _facts(model.config, model.vocab_size, step, run))
        save_tensors(tensors, temporary / "trainer.safetensors")
        write_json(temporary / "trainer.json", values)
    write_index(out_dir, best)
    return Source(folder, step)


def save_weights(
    folder: Path,
    weights: Weights,
    *,
    step: int,
    facts: Mapping[str, Any],
    tokenizer: str | None = None,
) -> None:
    """Weights alone as a folder that `find` knows: the base of a LoRA run, or an export, with the
    tokenizer's JSON."""
    with _making(folder) as temporary:
        save_tensors(weights.tensors, temporary / WEIGHTS)
        shape = _facts(weights.config, weights.vocab_size, step, facts)
        write_json(temporary / "model.json", shape)
        if tokenizer is not None:
            (temporary / "tokenizer.json").write_text(tokenizer, encoding="utf-8")


def save_base(out_dir: Path, source: Source, model: GPT) -> None:
    """The frozen weights of a LoRA run, once, so that its steps need nothing from elsewhere."""
    tensors = {k: v for k, v in model.weights().items() if not k.endswith(lora.OWN)}
    weights = Weights(model.config, model.vocab_size, tensors)
    save_weights(out_dir / "base", weights, step=0, facts={"from": str(source)})


def _facts(
    config: ModelConfig, vocab_size: int, step: int, more: Mapping[str, Any]
) -> dict[str, Any]:
    shape = {"vocab_size": vocab_size, "model": config.as_dict()}
    return {"format": FORMAT, "step": step, **shape, **more}


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """A safetensors file that transformers reads too."""
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk is one of these
        raise CheckpointError(
            f"{path} cannot be written: {first_line(error)}",
            mend="free space, or another --out_dir",
        ) from error
    share(path)


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """A fresh neighbour of `folder`, which takes its name when the block ends well."""
    family = "*" if folder.name.startswith("step_") else folder.name  # an index too
    for half in folder.parent.glob(f".tmp-{family}"):  # of a save that was killed
        if half.is_dir():
            shutil.rmtree(half, ignore_errors=True)
        else:
            half.unlink(missing_ok=True)
    temporary = folder.with_name(f".tmp-{folder.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        files = sorted(temporary.iterdir())
        for file in files:
            _fsync(file)
        write_json(temporary / "COMPLETE", {f.name: [f.stat().st_size, sha256(f)] for f in files})
        _fsync(temporary)
        shutil.rmtree(folder, ignore_errors=True)  # without COMPLETE: half of an older attempt
        temporary.rename(folder)
        _fsync(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # half a step on a full disk helps nobody
        raise


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
            (old.path / "COMPLETE").unlink()  # first: half a step is none
            shutil.rmtree(old.path)
        else:
            for name in ("trainer.safetensors", "trainer.json"):
                (old.path / name).unlink(missing_ok=True)


def newest_whole(standing: Sequence[Source]) -> Source:
    """The newest step whose files are what was written; what is damaged is told.

    Raises:
        CheckpointError: none is.
    """
    # an old best step has let its trainer files go
    whole = [s for s in standing if (s.path / "trainer.json").is_file()] or [*standing[-1:]]
    for source in reversed(whole):
        try:
            for part in ("model", "adapter", "trainer"):
                _verify(source, part)
        except CheckpointError as error:
            if source is whole[0]:
                raise
            print(f"note: {error.what}; going back to the step before")
        else:
            return source
    raise AssertionError("a run without steps is not resumed")


def set_aside(out_dir: Path, after: int) -> None:
    """Damaged steps make room for those that are trained again: they become step_....damaged."""
    for source in steps(out_dir):
        if source.step > after:
            aside = source.path.with_name(f"{source.path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            source.path.rename(aside)


def read_index(out_dir: Path) -> dict[str, Any]:
    """index.json, empty where there is none or it cannot be read."""
    try:
        index = json.loads((out_dir / "checkpoints" / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def steps(out_dir: Path) -> list[Source]:
    """The complete steps of a run, oldest first."""
    whole = (c.parent for c in (out_dir / "checkpoints").glob("step_*/COMPLETE"))
    named = (f for f in whole if f.name.removeprefix("step_").isdecimal())  # not step_1.bak
    found = (Source(f, int(f.name.removeprefix("step_"))) for f in named)
    return sorted(found, key=lambda source: source.step)


def find(place: Path | str, which: str = "best") -> Source:
    """Weights by any name: a run folder (and which step of it: best, last, a number), a step or
    exported folder, a Hugging Face folder, nanoGPT's ckpt.pt or the folder it lies in, a hub id,
    lyrics-base.

    Raises:
        CheckpointError: nothing there, or not that step.
    """
    path = Path(place)
    if place == BASE:
        return _lyrics_base()
    if path.suffix == ".safetensors" and path.is_file():
        path = path.parent
    if path.is_file():
        return Source(path, kind="nanogpt")
    if (path / "COMPLETE").is_file():
        return Source(path, int(_read_json(path / "model.json").get("step", 0)))
    if standing := {s.step: s for s in steps(path)}:
        return _which(path, which, standing)
    if (path / "ckpt.pt").is_file():
        return Source(path / "ckpt.pt", kind="nanogpt")
    if huggingface.is_model(path):
        return Source(path, kind="huggingface")
    # a path that leads into an existing folder was meant as a path
    is_path = path.exists() or path.is_absolute() or path.parts[:1] == ("out",)
    if not is_path and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(place)):
        return Source(huggingface.locate(str(place)), kind="huggingface", name=str(place))
    raise CheckpointError(
        f"no checkpoint in {path}",
        mend=f"python -m backend.training.train config/lyrics_cpu.py --out_dir={path}",
    )


def _lyrics_base() -> Source:
    """This project's own weights, an export that is part of the clone.

    Raises:
        CheckpointError: it is not there, or not whole.
    """
    folder = tokenizers.LYRICS_BASE
    missing = [n for n in ("COMPLETE", WEIGHTS, "tokenizer.json") if not (folder / n).is_file()]
    if missing:
        raise CheckpointError(
            f"lyrics-base is not whole: no {folder / missing[0]}", mend=tokenizers.RESTORE
        )
    source = Source(folder, int(_read_json(folder / "model.json").get("step", 0)), "ours", BASE)
    _verify(source, "tokenizer")
    return source


def holds_weights(folder: Path) -> bool:
    """Weights in the folder itself: an export, a Hugging Face folder, a ckpt.pt."""
    own = (folder / "COMPLETE").is_file() or (folder / "ckpt.pt").is_file()
    return own or huggingface.is_model(folder)


def home(source: Source, out_dir: str | None) -> Path:
    """The folder that lyrics and exports of these weights belong to."""
    into_step = source.is_step and out_dir is not None and Path(out_dir) == source.path
    return source.run if out_dir is None or into_step else Path(out_dir)


def _which(path: Path, which: str, standing: Mapping[int, Source]) -> Source:
    last = max(standing)
    if which == "last":
        return standing[last]
    if which == "best":
        best = read_index(path).get("best")  # it may be step 0
        return standing.get(last if best is None else best, standing[last])
    if which.isdigit() and int(which) in standing:
        return standing[int(which)]
    raise CheckpointError(
        f"no checkpoint {which!r} in {path}",
        mend="--checkpoint=best, last, or one of: " + ", ".join(map(str, sorted(standing))),
    )


def named(init_from: str, out_dir: str | None, which: str) -> Source:
    """What a program that only reads is told: `init_from` where it names weights, else the run in
    `out_dir`, else the newest run."""
    if init_from != "resume":
        return find(init_from, which)
    return find(out_dir or newest_run(), which)


def newest_run(root: Path = Path("out")) -> Path:
    """The run under `root` whose newest checkpoint is the newest of all."""
    runs = [(s[-1].path.stat().st_mtime, run) for run in root.glob("*") if (s := steps(run))]
    if not runs:
        raise CheckpointError(
            f"no run with a checkpoint under {root}/",
            mend="make lyrics, or python -m backend.training.train config/lyrics_cpu.py",
        )
    return max(runs)[1]


def read(source: Source, *, merge: bool = True) -> Weights:
    """The weights, whole.

    Args:
        merge: multiply LoRA adapters into them; False leaves the base.
    Raises:
        CheckpointError: damaged, of a newer format, or with tensors that do not fit the shape.
    """
    if source.kind == "huggingface":
        return huggingface.read(source.path)
    if source.kind == "nanogpt":
        return nanogpt.read(source.path)[0]
    facts = facts_of(source)
    if "lora" in facts:
        base = read(base_of(source))
        if not merge:
            return base
        scale = facts["lora"]["alpha"] / facts["lora"]["rank"]
        try:
            tensors = lora.merged(base.tensors, load_adapters(source), scale)
        except ValueError as error:
            raise CheckpointError(f"{source.path} does not fit its base: {error}") from None
        return Weights(base.config, base.vocab_size, tensors)
    _verify(source, "model")
    tensors = _load_tensors(source.path / WEIGHTS)  # an export may hold bfloat16
    return Weights(*describe(source), {k: v.float() for k, v in tensors.items()})


def describe(source: Source) -> tuple[ModelConfig, int]:
    """(shape, vocabulary), without reading all the weights."""
    if source.kind == "huggingface":
        return huggingface.describe(source.path)
    if source.kind == "nanogpt":
        weights, _ = nanogpt.read(source.path)
        return weights.config, weights.vocab_size
    facts = facts_of(source)
    try:
        return shape_from(facts["model"]), int(facts["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source.path}/model.json is not whole: {error!r}") from error


def facts_of(source: Source) -> dict[str, Any]:
    """model.json of our own; empty for others."""
    return _read_json(source.path / "model.json") if source.kind == "ours" else {}


def dataset_of(source: Source) -> str | None:
    """The bins that weights were trained on, as their run names them; None where none does."""
    if source.run.absolute() not in source.path.absolute().parents:
        return None
    try:
        settings = json.loads((source.run / "config.json").read_text(encoding="utf-8"))
        return str(settings["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def base_of(source: Source) -> Source:
    """The frozen weights of a LoRA step."""
    folder = source.run / "base"
    if not (folder / "COMPLETE").is_file():
        raise CheckpointError(
            f"{folder} is gone, and {source.path} holds only LoRA adapters of it",
            mend="copy whole run folders, or export: python -m backend.training.export",
        )
    return Source(folder)


def load_adapters(source: Source) -> dict[str, torch.Tensor]:
    """The LoRA adapters of a step."""
    _verify(source, "adapter")
    return _load_tensors(source.path / ADAPTER)


def load_model(source: Source, device: torch.device | str = "cpu") -> GPT:
    """The model as it was saved, adapters merged, in eval mode.

    Raises:
        CheckpointError: as `read`.
    """
    return read(source).build().to(device).eval()


def check_numbers(source: Source, model: GPT) -> None:
    """
    Raises:
        CheckpointError: a weight is no number.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise CheckpointError(
                f"{source} has weights that are no numbers, in {name}",
                why="its training diverged",
                mend="--checkpoint=best, or an earlier step; train again with a lower rate",
            )


def load_trainer(source: Source) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and values that continue the run exactly."""
    if not (source.path / "trainer.json").is_file():
        raise CheckpointError(
            f"{source.path} has weights but no optimizer to resume with",
            mend=f"--init_from={source.path} starts a new run from its weights",
        )
    _verify(source, "trainer")
    tensors = _load_tensors(source.path / "trainer.safetensors")
    return tensors, _read_json(source.path / "trainer.json")


def load_tokenizer(source: Source) -> tokenizers.Tokenizer:
    """The tokenizer that travels with the weights. Without a file, GPT-2's own weights and
    nanoGPT's of that size have GPT-2's.

    Raises:
        CheckpointError: none to be found.
    """
    file = tokenizer_file(source)
    pair = (source.path / "vocab.json", source.path / "merges.txt")
    if not file.is_file() and all(p.is_file() for p in pair):
        return tokenizers.ByteBPE.from_files(*pair)
    known = source.kind == "nanogpt" or source.name.removeprefix("openai-community/") in GPT2
    if not file.is_file() and known and describe(source)[1] == tokenizers.GPT2_SIZE:
        return tokenizers.ByteBPE.gpt2()
    if not file.is_file() and source.kind != "ours":
        raise CheckpointError(
            f"{source} has no tokenizer: its ids mean nothing without one",
            mend=f"put the tokenizer.json of its data at {file} "
            "(python -m backend.data.binarize writes one)",
        )
    return tokenizers.load(file)


def check_tokenizer(source: Source, bins: Bins) -> None:
    """
    Raises:
        CheckpointError: the bins are of another tokenizer than the weights.
    """
    theirs = load_tokenizer(source)
    if theirs.vocabulary() == bins.tokenizer.vocabulary():
        return
    known = BASE if source.name == BASE else "gpt2" if theirs.kind == "gpt2" else None
    raise CheckpointError(
        f"{source} has another tokenizer ({theirs.kind}, {theirs.vocab_size:,} ids) than "
        f"{bins.folder} ({bins.tokenizer.kind}, {bins.tokenizer.vocab_size:,} ids)",
        why="its ids mean other characters",
        mend=f"python -m backend.data.binarize --data_dir={bins.folder.parent} "
        + (f"--tokenizer={known}" if known else f"--tokenizer_file={tokenizer_file(source)}"),
    )


def tokenizer_file(source: Source) -> Path:
    """Where the tokenizer of these weights lies, or should. nanoGPT's files carry none: beside the
    file, else in the data folder that it names, here or in nanoGPT's checkout."""
    if source.is_step:
        return source.run / "tokenizer.json"
    if source.kind != "nanogpt":
        return source.path / "tokenizer.json"
    dataset = str(nanogpt.read(source.path)[1]["dataset"])
    folders = [
        source.path.parent,
        Path("data") / dataset,
        source.path.absolute().parents[1] / "data" / dataset,
    ]
    found = (f / "tokenizer.json" for f in folders if (f / "tokenizer.json").is_file())
    return next(found, folders[0] / "tokenizer.json")


def inputs(source: Source) -> list[Path]:
    """Every file that what is made from these weights depends on, for a manifest."""
    base = base_of(source).files if "lora" in facts_of(source) else []
    file = tokenizer_file(source)
    more = [file, source.path / "model.json", source.path / "config.json"]
    return [*source.files, *base, *(path for path in more if path.is_file())]


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error


def _verify(step: Source, part: str) -> None:
    """Size and sha256 of the files `part`.* against COMPLETE."""
    for name, (size, digest) in _read_json(step.path / "COMPLETE").items():
        file = step.path / name
        if name.startswith(part) and not (
            file.is_file() and file.stat().st_size == size and sha256(file) == digest
        ):
            raise CheckpointError(
                f"{file} is damaged: it is not what was written",
                mend=tokenizers.RESTORE
                if step.name == BASE
                else f"delete {step.path}; the next newest step is used then",
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
