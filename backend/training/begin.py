"""Where a run begins: its weights, its folder, and what stands in the way.

scratch    fresh weights, an empty folder
resume     the last complete step of out_dir, continued exactly
auto       the same where it is the same experiment; else that run is moved aside
a path     the weights of another run, at step 0
"""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.config.schema import ModelConfig, TrainConfig
from backend.data.batches import Bins
from backend.errors import CheckpointError, ConfigError
from backend.models import checkpoint
from backend.models.gpt import GPT


def starting_step(
    config: TrainConfig, experiment: dict[str, Any], bins: Bins
) -> checkpoint.Step | None:
    """Where the weights come from, and that the folder may be written."""
    out_dir = Path(config.out_dir)
    standing = checkpoint.steps(out_dir)
    if config.init_from in ("resume", "auto") and standing:
        last = standing[-1]
        facts = checkpoint.describe(last)
        # JSON has no tuples: compare what the file would hold
        changed = [
            k
            for k, v in json.loads(json.dumps(experiment)).items()
            if facts["experiment"].get(k) != v
        ]
        same_data = facts["data_sha256"] == bins.sha256
        if config.init_from == "auto" and not config.eval_only:
            if not changed and same_data:
                return last  # a finished run too: it takes no step, and lost outputs come back
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
        shape = [k for k in changed if hasattr(ModelConfig(), k)]
        if shape:
            raise CheckpointError(
                f"{', '.join(shape)} differ from the run in {out_dir}",
                mend="leave them out when resuming",
            )
        if changed:
            print(f"resuming with other values than before for: {', '.join(changed)}")
        return last
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
        return None
    return checkpoint.find(Path(config.init_from), config.checkpoint)


def starting_model(config: TrainConfig, bins: Bins, start: checkpoint.Step | None) -> GPT:
    shape, vocab_size = config.part(ModelConfig), bins.tokenizer.vocab_size
    if start is None:
        return GPT(shape, vocab_size)
    theirs = checkpoint.load_tokenizer(start)
    if theirs.to_json() != bins.tokenizer.to_json():
        raise CheckpointError(
            f"{start.run} was trained with another tokenizer than {bins.folder}",
            why="its ids mean other characters",
            mend="binarize the new songs with the old tokenizer, or train from scratch",
        )
    model = checkpoint.load_model(start)
    if model.config.public() | {"dropout": 0} != shape.public() | {"dropout": 0}:
        raise CheckpointError(
            f"the model in {start.folder} has another shape: {model.config.public()}",
            mend="give the same block_size, n_layer, n_head, n_embd and bias",
        )
    fresh = GPT(shape, vocab_size)  # dropout may differ, and lives in the modules
    fresh.load_state_dict(model.state_dict())
    return fresh


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
