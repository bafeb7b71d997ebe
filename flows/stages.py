"""The stages: each calls its program's `main`, or launches training as a child, and ends as a task.

A task never caches: the stages know themselves, by their manifests, when there is nothing to do,
and then the task ends as Skipped. A mistake of the user ends as Failed with its sentence.
"""

import io
import json
import logging
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast, get_args

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from backend.config.loader import USERS_DISK, load
from backend.config.schema import (
    BinarizeConfig,
    CleanConfig,
    CrawlConfig,
    EvaluateConfig,
    PipelineConfig,
    SampleConfig,
    Tokens,
    TrainConfig,
)
from backend.data import binarize as binarize_stage
from backend.data import clean as clean_stage
from backend.data import tokenizers
from backend.data.song import read_raw, read_songs
from backend.errors import ConfigError, NetworkError, UserError
from backend.report import Report
from backend.scrapers import crawl as crawl_stage
from backend.storage import Summary, alone
from backend.training.log import add_training, read_status
from flows import artifacts, child

VOCAB_SIZE = BinarizeConfig().vocab_size
SMALL = 300_000  # characters: with fewer the larger recipe learns the songs by heart
STEP = re.compile(r"step +(\d+)/(\d+) ")
COLOUR = re.compile(r"\033\[\d+m")
STEP_EVERY_S = 2.0  # in the log of the run; the screen and metrics.jsonl have them all
LAST_LINES = 200  # torchrun says much after our own sentence


@task(cache_policy=NO_CACHE, task_run_name="{name}")
def stage(name: str, config: PipelineConfig) -> State[Any]:
    """Run a stage, and say how it ended: Completed, Skipped, or Failed with a sentence."""
    try:
        with redirect_stdout(Told(sys.stdout, get_run_logger())):
            summary = STAGES[name](config)
            show(name, config, summary)
    except UserError as error:
        return Failed(message=str(error), data=error)
    except OSError as error:
        told = of_the_disk(error)
        return Failed(message=str(told), data=told)
    if summary.skipped:
        return Completed(name="Skipped", message="nothing to do", data=summary)
    return Completed(message=summary.line(), data=summary)


def of_the_disk(error: OSError) -> UserError:
    """What is the user's to mend: a full disk, a folder that may not be written. Else it is a bug,
    and raised again."""
    if error.errno not in USERS_DISK:
        raise error
    return UserError(
        f"cannot use {error.filename or 'the disk'}: {error.strerror}",
        mend="free space and permissions there",
    )


class Told(io.TextIOBase):
    """Standard output while a stage runs: to the screen as ever, and by lines to the log of the
    run. On a terminal the line of a training step takes the place of the one before."""

    def __init__(self, screen: TextIO, log: "logging.Logger | logging.LoggerAdapter[Any]") -> None:
        self.screen, self.log = screen, log
        self._rest, self._passing, self._logged = "", False, 0.0

    def write(self, text: str) -> int:
        passing = self.isatty() and STEP.match(text) is not None
        self.screen.write("\r\033[K" * self._passing + (text.rstrip("\n") if passing else text))
        self._passing = passing
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if STEP.match(line):
                if time.monotonic() - self._logged < STEP_EVERY_S:
                    continue
                self._logged = time.monotonic()
            self.log.info("%s", COLOUR.sub("", line))
        return len(text)

    def flush(self) -> None:
        self.screen.flush()

    def isatty(self) -> bool:
        return self.screen.isatty()


# --- what the stages are asked --------------------------------------------------------------------


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


def train_command(config: PipelineConfig) -> list[str]:
    """What a person would type after `python -m`."""
    bins = data_dir(config) / tokenizers.folder(tokenizer(config), VOCAB_SIZE)
    scratch = "lyrics-base" if bins.name == "lyrics-base" else "scratch"
    begin = [f"--init_from={scratch}", "--overwrite"] if config.force else ["--init_from=auto"]
    return [
        *(_torchrun() if config.profile == "a100_node" else []),
        "backend.training.train",
        config.config or _recipe(bins),
        f"--dataset={bins}",
        f"--out_dir={out_dir(config)}",
        f"--profile={config.profile}",
        *begin,
        *(f"--{override}" for override in config.train_overrides),
    ]


def _torchrun() -> list[str]:
    """One process a GPU. Where a cluster sets torchrun's own variables, they say how many, where
    and with whom."""
    if "PET_NPROC_PER_NODE" in os.environ:
        return ["torch.distributed.run", "-m"]
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        raise ConfigError(
            "profile = a100_node: this machine has no GPU that PyTorch can use",
            mend="--profile=auto takes what is there; lyrics doctor says why",
        )
    return ["torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}", "-m"]


def tokenizer(config: PipelineConfig) -> Tokens:
    """Whose tokens: as said, else the recipe's; without one lyrics-base's, where its weights are
    and the songs are in its language."""
    if config.tokenizer != "auto":
        return config.tokenizer
    if config.config:
        own = load(TrainConfig, [config.config]).dataset.rpartition("/")[2]
        kind = "bpe" if own.startswith("bpe") else own
        return cast(Tokens, kind) if kind in get_args(Tokens) else "char"
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


def check(config: PipelineConfig) -> None:
    """What would stop a stage hours later, said before the first one.

    Raises:
        UserError: a key of training that does not exist, a GPU or a token that is not there.
    """
    if "crawl" in config.stages and "genius" in config.source:
        crawl_stage.needed_token(crawl_config(config))
    if "train" in config.stages:
        command = train_command(config)
        load(TrainConfig, command[command.index("backend.training.train") + 1 :])


# --- the stages -----------------------------------------------------------------------------------


def crawl(config: PipelineConfig) -> Summary:
    """A site that refuses us in the middle of the night has cost what it did not give: the run goes
    on with the songs that are there, and says so at its end."""
    try:
        return crawl_stage.main(crawl_config(config))
    except NetworkError as error:
        folder = data_dir(config)
        try:
            songs = sum(1 for _ in read_raw(folder))
        except UserError:  # there are none
            raise error from None
        print(f"{error}\n  the run goes on with the {songs} songs that are there")
        counts = {"songs in the store": songs}
        return Summary("crawl", folder / "raw", counts, notes=[error.what])


def clean(config: PipelineConfig) -> Summary:
    return clean_stage.main(CleanConfig(data_dir=str(data_dir(config)), force=config.force))


def binarize(config: PipelineConfig) -> Summary:
    folder = str(data_dir(config))
    settings = BinarizeConfig(data_dir=folder, tokenizer=tokenizer(config), force=config.force)
    return binarize_stage.main(settings)


def train(config: PipelineConfig) -> Summary:
    """Success is what status.json says: torchrun ends with 1 where all its processes ended well."""
    folder = out_dir(config)
    _wait_for(folder)
    manifest = folder / "train.manifest.json"
    before = _written(manifest), _written(folder / "status.json")
    progress = artifacts.Progress()
    last: deque[str] = deque(maxlen=LAST_LINES)

    def tell(line: str) -> None:
        if step := STEP.match(line):
            progress.per_cent = 100 * int(step[1]) / int(step[2])
        last.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with progress.shown(folder.name):
        code = child.run(train_command(config), tell)
        after = _written(manifest), _written(folder / "status.json")
        status = read_status(folder)
        # an old "done" is no success of a child that never began
        done = status.get("state") == "done" and (code == 0 or after[1] != before[1])
        if not (done and after[0]):
            raise _fault(list(last), code, status if after[1] != before[1] else {})
        progress.per_cent = 100.0
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    skipped = after[0] == before[0]
    return Summary("train", folder, facts["counts"], facts["seconds"], skipped=skipped)


def evaluate(config: PipelineConfig) -> Summary:
    from backend.evaluation import evaluate as evaluate_stage  # torch: 3 s, and only from here on

    return evaluate_stage.main(EvaluateConfig(out_dir=str(out_dir(config)), force=config.force))


def sample(config: PipelineConfig) -> Summary:
    from backend.training import sample as sample_stage

    settings = SampleConfig(
        out_dir=str(out_dir(config)), num_samples=config.num_samples, start=config.start,
        structure=config.structure, artist=voice(config),
    )  # fmt: skip
    return sample_stage.main(settings)


def voice(config: PipelineConfig) -> str | None:
    """In whose manner: the artist with most songs, the first of several. Asked for nobody's, a
    finetuned model may write as somebody whom only its base has read."""
    path = data_dir(config) / "data.json"
    songs = Counter(song.artist_name for song in read_songs(path)) if path.is_file() else Counter()
    return next((name for name, _ in songs.most_common() if name), None)


STAGES: Mapping[str, Callable[[PipelineConfig], Summary]] = {
    "crawl": crawl,
    "clean": clean,
    "binarize": binarize,
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
}


def show(name: str, config: PipelineConfig, summary: Summary) -> None:
    """The artifact of a stage, from its files."""
    corpus, run = data_dir(config), out_dir(config)
    if name == "clean":
        card = artifacts.page(corpus / "dataset_card.md")
        artifacts.show("dataset-card", corpus.name, card, f"The corpus {corpus}")
    if name == "train":
        report = add_training(Report(f"Training of {run.name}"), run)
        curve = artifacts.with_pictures(report.text(), run)
        artifacts.show("loss-curve", run.name, curve, f"The training of {run}")
    if name == "evaluate":
        found = artifacts.page(run / "evaluation.md")
        artifacts.show("evaluation", run.name, found, f"The evaluation of {run}")
    if name == "sample":
        songs = (summary.folder / summary.counts["file"]).with_suffix(".jsonl")
        text = artifacts.add_lyrics(Report(f"Lyrics of {run.name}"), songs).text()
        artifacts.show("lyrics", run.name, text, f"Songs of {run}")


# --- how training ended ---------------------------------------------------------------------------


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _wait_for(folder: Path) -> None:
    """The training of a flow that was killed still saves for a moment."""
    began, told = time.monotonic(), False
    while time.monotonic() - began < child.GRACE_S:  # then training itself says who it is
        try:
            with alone(folder):
                return
        except UserError as error:
            if not told:
                print(f"{error.what}; waiting", flush=True)
            told = True
            time.sleep(0.5)


def _fault(lines: list[str], code: int, status: Mapping[str, Any]) -> UserError:
    """The sentence that training ended with: its error, else what it left in status.json."""
    parts = {"what": "", "why": "", "mend": ""}
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        part, parts["what"] = "what", lines[starts[-1]].removeprefix("error: ")
        for line in lines[starts[-1] + 1 :]:
            if found := re.match(r"  (why|mend): +(.*)", line):
                part, parts[found[1]] = found[1], found[2]
            elif line.startswith("  "):
                parts[part] += f"\n{line}"
            else:
                break
    elif code == -9:
        parts["what"] = "it was killed (SIGKILL), as the kernel does when memory is short"
    else:
        words = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        parts["what"] = f"{status.get('reason') or words} (exit code {code})"
    return UserError(f"training did not finish: {parts['what']}", parts["why"], parts["mend"])
