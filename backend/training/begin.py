"""Where a run begins: its weights, its shape, its folder, and what stands in the way.

scratch    fresh weights, an empty folder
resume     the last complete step of out_dir, continued exactly
auto       the same where it is the same experiment; else that run is moved aside
a path     weights of another run, of Hugging Face or of nanoGPT, at step 0 of a new run
finetune   the old word: out_dir's run, at step 0 of <out_dir>-finetune
"""

import dataclasses
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.config import kinds
from backend.config.schema import ModelConfig, TrainConfig
from backend.data.batches import Bins
from backend.errors import CheckpointError, ConfigError
from backend.models import checkpoint, lora
from backend.models.checkpoint import Source
from backend.models.gpt import GPT
from backend.models.weights import MAY_CHANGE


def spelt_out(config: TrainConfig) -> TrainConfig:
    """`finetune` as the path that it means."""
    if config.init_from != "finetune":
        return config
    to = f"{config.out_dir}-finetune"
    print(f"finetuning {config.out_dir} into {to}")
    return dataclasses.replace(config, init_from=config.out_dir, out_dir=to)


def find_source(config: TrainConfig) -> Source | None:
    """Where the weights come from; None for fresh ones.

    Raises:
        CheckpointError: nothing there; or the folder holds a run that would be destroyed.
    """
    out_dir = Path(config.out_dir)
    standing = checkpoint.steps(out_dir)
    if config.init_from in ("resume", "auto") and standing:
        return standing[-1]
    if config.init_from == "resume":
        return checkpoint.find(out_dir, "last")  # says that there is none
    if standing and not (config.overwrite or config.eval_only):
        raise CheckpointError(
            f"{out_dir} holds a run already, at step {standing[-1].step}",
            why="a new run would destroy it",
            mend="--init_from=resume goes on with it; another --out_dir keeps both; --overwrite "
            "deletes it",
        )
    if config.init_from in ("scratch", "auto"):
        if config.lora_rank:
            raise ConfigError(
                f"lora_rank = {config.lora_rank} adapts weights, and init_from = "
                f"{config.init_from} has none",
                mend="--init_from=gpt2, or the folder of a run",
            )
        return None
    return checkpoint.find(config.init_from, config.checkpoint)


def with_shape_of(config: TrainConfig, source: Source | None) -> TrainConfig:
    """The settings with the shape that the weights have.

    Weights win over defaults, and over a recipe that says otherwise (this is told). The command
    line may shorten or extend the block and change the kind of attention; a recipe may shorten the
    block. When resuming, anything said must agree, but for the recipe of a run that began from
    weights, which lost then too.

    Raises:
        CheckpointError: the command line, or a resumed run's recipe, contradicts the weights.
    """
    if source is None or config.init_from == "auto":
        # auto compares the settings, and the shape is one of them
        return _with_alpha(config)
    facts = checkpoint.facts_of(source)
    theirs, _ = checkpoint.describe(source)
    own, default = config.part(ModelConfig).as_dict(), ModelConfig().as_dict()
    resumed = config.init_from == "resume"
    taken: dict[str, Any] = {}
    refused = []
    # a caller in Python leaves no origins: what is no default was said
    said = {
        key: config.origins.get(key, None if own[key] == default[key] else "parameter")
        for key in own
    }
    purposes = ("command line", "parameter")
    new_kind = said["attn_type"] in purposes and own["attn_type"] != theirs.attn_type
    for key, value in theirs.as_dict().items():
        origin, on_purpose = said[key], said[key] in purposes
        if own[key] == value or key == "dropout":
            continue
        if origin is None:
            if not (key == "attn_scale" and new_kind):
                taken[key] = value  # else the new kind's own default stands
        elif resumed and not on_purpose and facts.get("from"):
            taken[key] = value
        elif resumed:
            refused.append(f"{key} = {own[key]} ({origin}; the run has {value})")
        elif key in ("init", "zero_init"):
            continue  # nothing is initialised
        elif on_purpose:
            if key not in MAY_CHANGE:
                refused.append(f"{key} = {own[key]} (the weights have {value})")
            else:
                print(f"note: {key} = {own[key]}; the weights were trained with {value}")
        elif key == "block_size" and own[key] < value:
            print(f"note: block_size = {own[key]} ({origin}); the weights know {value} positions")
        else:
            taken[key] = value
            print(f"note: {key} = {value}, as in the weights, not {own[key]} ({origin})")
    if resumed:
        adapters = facts.get("lora", {"rank": 0, "alpha": None})
        for key, value in adapters.items():
            if (asked := getattr(config, f"lora_{key}")) not in (0, None, value):
                refused.append(f"lora_{key} = {asked} (the run has {value})")
            taken[f"lora_{key}"] = value
    if refused:
        raise CheckpointError(
            f"{source} has another shape: " + ", ".join(refused),
            mend="leave these keys out" + (" when resuming" if resumed else ""),
        )
    origins = dict(config.origins) | dict.fromkeys(taken, str(source))
    return _with_alpha(dataclasses.replace(config, **taken, origins=origins))


def _with_alpha(config: TrainConfig) -> TrainConfig:
    if config.lora_rank and config.lora_alpha is None:
        return dataclasses.replace(config, lora_alpha=2.0 * config.lora_rank)
    return config


def check(
    config: TrainConfig, experiment: dict[str, Any], bins: Bins, source: Source | None
) -> Source | None:
    """Does the run in the folder go on? For auto: the source, or None after moving another
    experiment aside.

    Raises:
        CheckpointError: resuming on other data.
    """
    if source is None or config.init_from not in ("resume", "auto"):
        return source
    out_dir, facts = Path(config.out_dir), checkpoint.facts_of(source)
    # JSON has no tuples: compare what the file would hold; keys younger than the run had their
    # defaults in it
    before = TrainConfig().as_dict() | facts["experiment"]
    before["attn_scale"] = before["attn_scale"] or kinds.default_scale(before["attn_type"])
    changed = [k for k, v in json.loads(json.dumps(experiment)).items() if before.get(k) != v]
    same_data = facts["data_sha256"] == bins.sha256
    if config.init_from == "auto" and not config.eval_only:
        if not changed and same_data:
            return source  # a finished run too: it takes no step, and lost outputs come back
        aside = out_dir.with_name(f"{out_dir.name}.{datetime.now():%Y%m%d-%H%M%S}")
        out_dir.rename(aside)
        print(
            f"{out_dir} held another run ({', '.join(changed) or 'its data'} changed); "
            f"it is {aside} now"
        )
        return None
    if not same_data:
        raise CheckpointError(
            f"the data in {bins.folder} are not those that {out_dir} was trained on",
            mend=f"--init_from={out_dir} --out_dir=NEW starts a new run from its weights",
        )
    if changed:
        print(f"resuming with other values than before for: {', '.join(changed)}")
    return source


def build(config: TrainConfig, bins: Bins, source: Source | None, *, resumed: bool) -> GPT:
    """The model, with its weights, and adapters where LoRA is asked for.

    Raises:
        CheckpointError: another tokenizer, or weights that do not fit.
    """
    shape, vocab_size = config.part(ModelConfig), bins.tokenizer.vocab_size
    if source is None:
        return GPT(shape, vocab_size)
    theirs = checkpoint.load_tokenizer(source)
    if theirs.vocabulary() != bins.tokenizer.vocabulary():
        raise CheckpointError(
            f"{source} has another tokenizer ({theirs.kind}, {theirs.vocab_size:,} ids) than "
            f"{bins.folder} ({bins.tokenizer.kind}, {vocab_size:,} ids)",
            why="its ids mean other characters",
            mend=f"python -m backend.data.binarize --data_dir={bins.folder.parent} "
            + (
                "--tokenizer=gpt2"
                if theirs.kind == "gpt2"
                else f"--tokenizer_file={checkpoint.tokenizer_file(source)}"
            ),
        )
    adapted = resumed and "lora" in checkpoint.facts_of(source)
    weights = checkpoint.read(source, merge=not adapted)
    changes = {key: getattr(shape, key) for key in MAY_CHANGE}
    model = weights.build(vocab_size, **changes)
    if config.lora_rank:
        assert config.lora_alpha is not None  # _with_alpha
        lora.add(model, config.lora_rank, config.lora_alpha)
    if adapted:
        lora.load(model, checkpoint.load_adapters(source))
    return model


def empty_folder(config: TrainConfig, out_dir: Path) -> None:
    if config.overwrite and out_dir.exists():
        is_run = (out_dir / "status.json").is_file() or (out_dir / "checkpoints").is_dir()
        if not is_run and any(out_dir.iterdir()):
            raise ConfigError(
                f"{out_dir} is no run folder; it is not deleted", mend="another --out_dir"
            )
        for child in out_dir.iterdir():  # not the folder itself, which may be a symbolic link
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "metrics.jsonl").unlink(missing_ok=True)
