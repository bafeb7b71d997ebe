"""Where a run begins: its weights, its shape, its folder, and what stands in the way.

scratch    fresh weights, an empty folder
resume     the last complete step of out_dir, continued exactly
auto       the same where it is the same experiment; else that run is moved aside, and one begins
           from `base`, or from scratch
a path     weights of another run, of Hugging Face or of nanoGPT, at step 0 of a new run
finetune   the old word: out_dir's run, at step 0 of <out_dir>-finetune
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from backend.config import kinds
from backend.config.schema import ModelConfig, TrainConfig
from backend.data.bins import Bins
from backend.errors import CheckpointError, ConfigError
from backend.models import checkpoint, lora
from backend.models.checkpoint import Source
from backend.models.gpt import GPT
from backend.models.weights import MAY_CHANGE
from backend.storage import alone


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
        CheckpointError: nothing there; or the folder holds what would be destroyed.
    """
    out_dir = Path(config.out_dir)
    standing = checkpoint.steps(out_dir)
    looking = config.eval_only or config.dry_run  # and writing nothing
    if standing and config.init_from in ("resume", "auto"):
        newest = checkpoint.newest_whole(standing)
        if config.init_from == "resume" or not config.base or config.eval_only:
            return newest
        base = checkpoint.find(config.base, config.checkpoint)
        began = checkpoint.facts_of(newest).get("from")
        if began == str(base):
            return newest
        if not looking:
            with alone(out_dir):
                _move_aside(out_dir, f"it began from {began or 'scratch'}")
        return base
    others = checkpoint.holds_weights(out_dir) and not standing
    if config.init_from == "resume":
        raise CheckpointError(
            f"no run in {out_dir} to resume" + ("; it holds other weights" if others else ""),
            mend=f"--init_from={out_dir} --out_dir=NEW starts a run from them"
            if others
            else f"python -m backend.training.train config/lyrics_cpu.py --out_dir={out_dir}",
        )
    if standing and not (config.overwrite or looking):
        raise CheckpointError(
            f"{out_dir} holds a run already, at step {standing[-1].step}",
            why="a new run would destroy it",
            mend=f"--init_from=resume --out_dir={out_dir} goes on with it; another --out_dir keeps "
            "both; --overwrite deletes it",
        )
    if others and not looking:
        raise CheckpointError(
            f"{out_dir} holds weights that are no run", why="a run there would overwrite them",
            mend="another --out_dir",
        )  # fmt: skip
    begins_from = config.base if config.init_from == "auto" else config.init_from
    if begins_from in ("scratch", None):
        _refuse_lora(config)
        return None
    return checkpoint.find(begins_from, config.checkpoint)


def resumes(config: TrainConfig, source: Source | None) -> bool:
    """Does the run in out_dir go on from this source, rather than begin from it?"""
    ours = source is not None and source.is_step and source.run == Path(config.out_dir)
    return ours and config.init_from in ("resume", "auto")


def _move_aside(out_dir: Path, why: str) -> None:
    name = f"{out_dir.name}.{datetime.now():%Y%m%d-%H%M%S}"
    free = (out_dir.with_name(name + more) for more in ("", *(f"-{n}" for n in range(2, 99))))
    aside = next(path for path in free if not path.exists())  # two runs may end in one second
    out_dir.rename(aside)
    print(f"{out_dir} held another run ({why}); it is {aside} now")


def _refuse_lora(config: TrainConfig) -> None:
    """Fresh weights have nothing to adapt."""
    if config.lora_rank:
        raise ConfigError(
            f"lora_rank = {config.lora_rank} adapts weights, and init_from = {config.init_from} "
            "has none",
            mend="--init_from=gpt2, or the folder of a run",
        )


ON_PURPOSE = ("command line", "parameter")


def _on_purpose(config: TrainConfig, origin: str | None) -> bool:
    """Was a value said for these weights? On the command line, or in the recipe that names them."""
    named = (config.origins.get("init_from"), config.origins.get("base"))
    return origin in ON_PURPOSE or (origin is not None and origin in named)


def with_shape_of(config: TrainConfig, source: Source | None) -> TrainConfig:
    """The settings with the shape that the weights have.

    Weights win over defaults, and over a recipe that says otherwise (this is told). The command
    line, and a recipe that names the weights itself, may shorten or extend the block and change the
    kind of attention; any recipe may shorten the block. When resuming, anything said must agree,
    but for the recipe of a run that began from weights, which lost then too.

    Raises:
        CheckpointError: the command line, or a resumed run's recipe, contradicts the weights.
    """
    resumed = resumes(config, source)
    if resumed and config.init_from == "auto" and config.base and not config.eval_only:
        # as when it began: what was said since makes it another experiment, no contradiction
        source, resumed = checkpoint.find(config.base, config.checkpoint), False
    facts = checkpoint.facts_of(source) if source else {}
    if resumed and config.init_from == "auto" and not (config.eval_only or facts.get("from")):
        source = None  # auto compares the settings, and the shape is one of them
    if source is None:
        return _with_alpha(config)
    own, default = config.part(ModelConfig).as_dict(), ModelConfig().as_dict()
    shape, _ = checkpoint.describe(source)
    theirs = shape.as_dict()
    # a caller in Python leaves no origins: what is no default was said
    said = {
        key: config.origins.get(key, None if own[key] == default[key] else "parameter")
        for key in own
    }
    purposes = {key: _on_purpose(config, origin) for key, origin in said.items()}
    new_kind = purposes["attn_type"] and own["attn_type"] != theirs["attn_type"]
    taken: dict[str, Any] = {}
    refused = []
    for key, value in theirs.items():
        origin = said[key]
        if own[key] == value or key == "dropout":
            continue
        shorter = key == "block_size" and own[key] < value
        verdict = _verdict(
            key, origin, purposes[key], resumed, bool(facts.get("from")), shorter, new_kind
        )
        if verdict == "refuse":
            whose = "run has" if resumed else "weights have"
            refused.append(f"{key} = {own[key]} ({origin}; the {whose} {value})")
        elif verdict == "take":
            taken[key] = value
            if origin and not resumed:
                print(f"note: {key} = {value}, as in the weights, not {own[key]} ({origin})")
        elif origin and key not in ("init", "zero_init"):
            print(f"note: {key} = {own[key]}; the weights were trained with {value}")
    if resumed:
        adapters = facts.get("lora", {"rank": 0, "alpha": None})
        for name, value in adapters.items():
            key = f"lora_{name}"
            if (asked := getattr(config, key)) not in (0, None, value):
                refused.append(f"{key} = {asked} (the run has {value})")
            elif asked != value:
                taken[key] = value
    if refused:
        raise CheckpointError(
            f"{source} has another shape: " + ", ".join(refused),
            mend="leave these keys out when resuming"
            if resumed
            else "leave these keys out, or begin from scratch; in the flow --tokenizer=char does",
        )
    origins = dict(config.origins) | dict.fromkeys(taken, str(source))
    whole = _with_alpha(dataclasses.replace(config, **taken, origins=origins))
    before = set(config.problems())
    if problems := [p for p in whole.problems() if p not in before]:  # such as adapters under FSDP
        raise ConfigError(f"what {source} is does not go with the settings: {'; '.join(problems)}")
    return whole


def _verdict(
    key: str,
    origin: str | None,
    on_purpose: bool,
    resumed: bool,
    from_weights: bool,
    shorter: bool,
    new_kind: bool,
) -> Literal["keep", "take", "refuse"]:
    """Of a key that differs: is what was said kept, are the weights believed, or is it refused?"""
    if origin is None:  # nobody said it; a new kind has a scale of its own
        return "keep" if key == "attn_scale" and new_kind else "take"
    if resumed:
        return "take" if from_weights and not on_purpose else "refuse"
    if key in ("init", "zero_init"):  # nothing is initialised
        return "keep"
    if on_purpose:
        return "keep" if key in MAY_CHANGE else "refuse"
    return "keep" if shorter else "take"


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
        CheckpointError: resuming on other data; or auto, and a run that fresh weights cannot
            replace.
    """
    if source is None or not resumes(config, source):
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
        base = checkpoint.find(config.base, config.checkpoint) if config.base else None
        if config.dry_run:
            return base
        why = f"{', '.join(changed) or 'its data'} changed"
        if facts.get("from") and base is None:
            raise CheckpointError(
                f"{out_dir} holds a run that began from {facts['from']}, and {why}",
                why="auto begins from fresh weights, which is another run",
                mend=f"--init_from=resume, or --init_from={facts['from'].partition(',')[0]} "
                "--out_dir=NEW",
            )
        if base is None:
            _refuse_lora(config)
        _move_aside(out_dir, why)
        return base
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
    checkpoint.check_tokenizer(source, bins)
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


FEW = 10_000  # characters: some five songs
ENGLISH = 2.2  # characters a token of lyrics-base: in English songs 2.6 to 3, in others 1.7 or less


def advise(source: Source | None, bins: Bins) -> Iterator[str]:
    """What stands in the way of a good finetuning of lyrics-base."""
    if source is None or source.name != checkpoint.BASE:
        return
    chars, per_token = bins.train.chars, bins.train.chars / max(1, len(bins.train.tokens))
    if per_token < ENGLISH:
        yield (
            f"lyrics-base knows English alone, and these songs are {per_token:.1f} characters a "
            "token to it, where English ones are 2.6 or more. What is not English is learnt "
            "better from scratch: config/lyrics_cpu.py, with --tokenizer=char in binarize"
        )
    if chars < FEW:
        yield (
            f"{chars:,} characters are few to finetune on: they will be learnt by heart, or "
            "nothing of them. --max_iters=60 --dropout=0.3, and more songs if you have them"
        )


def origin(source: Source | None, *, resumed: bool) -> dict[str, Any]:
    """Whose weights a run started from: its checkpoints say so, also after it was resumed."""
    if source is None:
        return {"from": None, "base_model": None}
    if resumed:
        facts = checkpoint.facts_of(source)
        return {key: facts.get(key) for key in ("from", "base_model")}
    return {"from": str(source), "base_model": source.name or None}


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
