"""One task per stage: it calls the stage's `main`, or launches training as a child.

A task never caches: the stages know themselves, by their manifests, when there is nothing to do,
and then the task ends as Skipped. A mistake of the user ends as Failed with its sentence.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from backend.config.loader import load
from backend.config.schema import (
    BinarizeConfig,
    CleanConfig,
    CrawlConfig,
    PipelineConfig,
    SampleConfig,
    Tokens,
    TrainConfig,
)
from backend.data import binarize as binarize_stage
from backend.data import clean as clean_stage
from backend.data import tokenizers
from backend.data.song import read_songs
from backend.errors import UserError
from backend.scrapers import crawl as crawl_stage
from backend.storage import Summary
from backend.training.log import read_status
from flows import child

VOCAB_SIZE = BinarizeConfig().vocab_size
SMALL = 300_000  # characters: with fewer the larger recipe learns the songs by heart


def crawl_config(config: PipelineConfig) -> CrawlConfig:
    """The crawl of a flow."""
    return CrawlConfig(
        source=config.source,
        artists=config.artists,
        artist_file=config.artist_file,
        max_songs=config.max_songs,
        path=config.path,
        data_dir=f"data/{config.dataset}" if config.dataset else None,
        force=config.force,
    )


def data_dir(config: PipelineConfig) -> Path:
    """The corpus folder of a flow."""
    return crawl_stage.folder(crawl_config(config))


def out_dir(config: PipelineConfig) -> Path:
    """The run folder of a flow."""
    return Path("out") / (config.run or data_dir(config).name)


def _ended(stage: Callable[[], Summary]) -> State[Any]:
    """Run a stage and say how it ended."""
    try:
        summary = stage()
    except UserError as error:
        return Failed(message=str(error), data=error)
    if summary.skipped:
        return Completed(name="Skipped", message="nothing to do", data=summary)
    return Completed(message=summary.line(), data=summary)


@task(cache_policy=NO_CACHE)
def crawl(config: PipelineConfig) -> State[Any]:
    return _ended(lambda: crawl_stage.main(crawl_config(config)))


@task(cache_policy=NO_CACHE)
def clean(config: PipelineConfig) -> State[Any]:
    settings = CleanConfig(data_dir=str(data_dir(config)), force=config.force)
    return _ended(lambda: clean_stage.main(settings))


@task(cache_policy=NO_CACHE)
def binarize(config: PipelineConfig) -> State[Any]:
    settings = BinarizeConfig(
        data_dir=str(data_dir(config)), tokenizer=tokenizer(config), force=config.force
    )
    return _ended(lambda: binarize_stage.main(settings))


@task(cache_policy=NO_CACHE)
def train(config: PipelineConfig) -> State[Any]:
    return _ended(lambda: _train(config))


@task(cache_policy=NO_CACHE)
def sample(config: PipelineConfig) -> State[Any]:
    from backend.training import sample as sample_stage  # torch: 3 s, and only here

    settings = SampleConfig(
        out_dir=str(out_dir(config)), num_samples=config.num_samples, start=config.start
    )
    return _ended(lambda: sample_stage.main(settings))


def train_command(config: PipelineConfig) -> list[str]:
    """What a person would type after `python -m`."""
    bins = data_dir(config) / tokenizers.folder(tokenizer(config), VOCAB_SIZE)
    scratch = "lyrics-base" if bins.name == "lyrics-base" else "scratch"
    begin = [f"--init_from={scratch}", "--overwrite"] if config.force else ["--init_from=auto"]
    return [
        "backend.training.train",
        config.config or _recipe(bins),
        f"--dataset={bins}",
        f"--out_dir={out_dir(config)}",
        f"--profile={config.profile}",
        *begin,
        *(f"--{override}" for override in config.train_overrides),
    ]


def tokenizer(config: PipelineConfig) -> Tokens:
    """Whose tokens: as said, else the recipe's; without one lyrics-base's, where its weights are
    and the songs are in its language."""
    if config.tokenizer != "auto":
        return config.tokenizer
    if config.config:
        own = load(TrainConfig, [config.config]).dataset.rpartition("/")[2]
        return "bpe" if own.startswith("bpe") else cast(Tokens, own)
    if not (tokenizers.LYRICS_BASE / "COMPLETE").is_file():
        return "char"
    songs = data_dir(config) / "data.json"
    languages = [song.language for song in read_songs(songs)] if songs.is_file() else []
    english = sum(language in ("en", None) for language in languages)
    return "lyrics-base" if 2 * english >= len(languages) else "char"


def _recipe(bins: Path) -> str:
    """The recipe for these bins; by the size of the corpus, before there is one for a small one."""
    if bins.name == "lyrics-base":
        return "config/finetune_lyrics_base.py"
    try:
        meta = json.loads((bins / "meta.json").read_text(encoding="utf-8"))
        characters = int(meta["splits"]["train"]["chars"])
    except (OSError, ValueError, KeyError, TypeError):
        characters = 0  # what is wrong with the bins is for training to say
    return "config/lyrics_small.py" if characters < SMALL else "config/lyrics_cpu.py"


def _train(config: PipelineConfig) -> Summary:
    """Nothing was done where the manifest is still the one that stood before."""
    folder = out_dir(config)
    manifest = folder / "train.manifest.json"
    before = manifest.stat().st_mtime_ns if manifest.is_file() else None
    code = child.run(train_command(config))
    if code != 0 or not manifest.is_file():
        state = read_status(folder).get("state", "nothing")
        raise UserError(
            f"training did not finish (exit code {code}; {folder}/status.json: {state})",
            why="its own lines above say more",
            mend="the same command continues it",
        )
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    skipped = manifest.stat().st_mtime_ns == before
    return Summary("train", folder, facts["counts"], facts["seconds"], skipped=skipped)


STAGES = {
    "crawl": crawl,
    "clean": clean,
    "binarize": binarize,
    "train": train,
    "sample": sample,
}
