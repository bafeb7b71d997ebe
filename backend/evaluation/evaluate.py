"""Evaluate: a trained model -> figures on the screen, evaluation.json and evaluation.md.

    python -m backend.evaluation.evaluate --out_dir=out/demo
    python -m backend.evaluation.evaluate --compare out/demo out/other

Reads a checkpoint and the bins of its songs. Writes evaluation.json, evaluation.md and
evaluation.png into the run folder; --compare writes comparison.md, .png and .json beside the runs.
Deterministic: the same weights, data and settings give the same figures.

Under torchrun several processes share the work of losses, HellaSwag and LAMBADA.
"""

import contextlib
import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.config.loader import program
from backend.config.schema import EvaluateConfig
from backend.data.batches import Windows
from backend.data.bins import Bins, Split
from backend.data.song import read_songs, split_header
from backend.errors import CheckpointError, ConfigError, DataError, first_line
from backend.evaluation import baselines, songs, tasks
from backend.evaluation.compare import compare
from backend.evaluation.loss import SplitLoss, random_loss, split_loss
from backend.evaluation.ngram import NGram
from backend.evaluation.novelty import NAME as NOVELTY
from backend.evaluation.novelty import Novelty
from backend.evaluation.sounds import sounds
from backend.models import checkpoint
from backend.models.generation import Sampling
from backend.models.gpt import GPT, n_params
from backend.report import Report
from backend.runtime import Runtime, detect
from backend.storage import Stage, Summary, atomic_write, sha256, write_json

VERSION = 1
FORMAT = 1
TRAINED = 200  # training songs whose loss stands beside the validation loss
RESAMPLED = 2000  # times that songs are drawn anew for an interval
SHOWN = 20  # artists of the table
INDEXED = 2**28  # tokens of a corpus whose words are indexed without being asked


def main(config: EvaluateConfig) -> Summary:
    if config.compare:
        return compare(config.compare)
    runtime = detect(device=config.device, dtype=config.dtype, training=True)
    with contextlib.ExitStack() as stack:
        stack.callback(runtime.close)
        if not runtime.is_main:
            stack.enter_context(contextlib.redirect_stdout(None))
        return _evaluate(config, runtime)


def _evaluate(config: EvaluateConfig, runtime: Runtime) -> Summary:
    source = checkpoint.named(config.init_from, config.out_dir, config.checkpoint)
    run = checkpoint.home(source, config.out_dir)
    print(f"model:   {source}")
    prose = {"hellaswag", "lambada"}.issuperset(config.only)
    bins = None if prose else _bins(config, source)
    wanted = [name for name in tasks.FILES if name in config.only]
    tasks.check(*wanted)
    given = _given(Path(config.songs)) if config.songs else None
    if "lyrics" in config.only:
        sounds(config.rhyme)  # what is not installed is told before hours are spent
    files = [tasks.FILES[name] for name in wanted]
    inputs = [*checkpoint.inputs(source), *(bins.files() if bins else []), *files]
    inputs += [Path(config.songs)] if config.songs else []
    free = ("out_dir", "init_from", "dataset", "force", "batch_size")
    settings = {k: v for k, v in config.as_dict().items() if k not in free}
    with runtime.main_first():
        stage = Stage("evaluate", VERSION, run, settings=settings, inputs=inputs)
        done = None if config.force else stage.unchanged()
    if done:
        print((run / "evaluation.md").read_text(encoding="utf-8") + done.line())
        return done
    if bins:
        checkpoint.check_tokenizer(source, bins)
    tokenizer = bins.tokenizer if bins else checkpoint.load_tokenizer(source)
    weights = checkpoint.read(source)
    torch.manual_seed(config.seed)  # of rows for ids that the weights lack
    model = weights.build(max(weights.vocab_size, tokenizer.vocab_size)).to(runtime.device).eval()
    if weights.vocab_size < tokenizer.vocab_size:
        print(
            f"note: {source} knows {weights.vocab_size:,} of the {tokenizer.vocab_size:,} ids; the "
            "others, such as the end of a text, are as likely as chance made them"
        )
    checkpoint.check_numbers(source, model)
    print(f"         {n_params(model):,} parameters on {runtime.shown()}")
    found: dict[str, Any] = {
        "format": FORMAT,
        "model": str(source),
        "checkpoint_sha256": sha256(source.files[0]),
        "parameters": n_params(model),
        "settings": settings,
        "precision": str(runtime.dtype).removeprefix("torch."),
    }
    if bins:
        found["data"] = bins.summary() | {"bins": bins.sha256}
    counted = cache(lambda: baselines.ngram(bins)) if bins else None
    if bins and "loss" in config.only:
        print("loss:    the whole validation split ...", flush=True)
        found |= _loss(config, model, bins, runtime)
        with runtime.main_first():
            floor = baselines.baselines(bins, counted=counted if runtime.is_main else None)
        found["baselines"] = {name: each._asdict() for name, each in floor.items()}
    for name, task, most in (
        ("hellaswag", tasks.hellaswag, config.hellaswag_samples),
        ("lambada", tasks.lambada, config.lambada_samples),
    ):
        if name in config.only:
            print(f"{name} ...", flush=True)
            found[name] = task(model, tokenizer, runtime, most=most, batch_size=config.batch_size)
    counts = _counts(found)
    if not runtime.is_main:
        return Summary("evaluate", run, counts)
    runtime.close()  # the others are done
    run.mkdir(parents=True, exist_ok=True)
    forms: Mapping[str, Sequence[str]] = {}
    if bins and counted and "lyrics" in config.only:
        found["lyrics"], forms = _lyrics(config, model, bins, counted, given)
    write_json(run / "evaluation.json", found)
    outputs = [run / "evaluation.json", run / "evaluation.md"]
    if bins:
        outputs.append(_plot(found, forms, run / "evaluation.png"))
    text = _report(found, run).text()
    with atomic_write(outputs[1]) as file:
        file.write(text)
    print(text)
    summary = stage.finish(outputs, counts)
    print(summary.line())
    return summary


def _bins(config: EvaluateConfig, source: checkpoint.Source) -> Bins:
    """Those that were asked for, or that the run was trained on.

    Raises:
        ConfigError: the weights are of no run that names any.
    """
    if config.dataset:
        return Bins.open(config.dataset)
    try:
        settings = json.loads((source.run / "config.json").read_text(encoding="utf-8"))
        dataset = str(settings["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{source} does not say what it was trained on",
            mend="--dataset=NAME of bins with its tokenizer, such as darklyrics/gpt2",
        ) from None
    bins = Bins.open(dataset)
    trained_on = checkpoint.facts_of(source).get("data_sha256")
    if trained_on not in (None, bins.sha256):
        print(
            f"note: {bins.folder} changed since {source} was trained: songs that are held out now "
            "may be songs it knows"
        )
    return bins


def _counts(found: Mapping[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    if "loss" in found:
        counts["bits per character"] = f"{found['loss']['bpc']:.4f}"
    if "hellaswag" in found:
        counts["HellaSwag"] = f"{found['hellaswag']['acc_norm']:.4f}"
    if "lambada" in found:
        counts["LAMBADA"] = f"{found['lambada']['acc']:.4f}"
    return counts


# --- loss -----------------------------------------------------------------------------------------


def _loss(config: EvaluateConfig, model: GPT, bins: Bins, runtime: Runtime) -> dict[str, Any]:
    """Of the validation split, of a few training songs, by artist and language."""
    score = partial(
        split_loss, model, runtime=runtime, batch_size=config.batch_size, stride=config.stride
    )
    val = score(bins.val)
    if not math.isfinite(val.loss):
        raise CheckpointError("the model's loss is no number", mend="--dtype=float32")
    known, chars = _known(bins)
    found: dict[str, Any] = {
        "loss": {
            "loss": val.loss, "perplexity": val.perplexity, "bpc": val.bpc, "bpb": val.bpb,
            "bpc_interval": _interval(val.songs, chars, config.seed), "songs": bins.val.songs,
            "tokens": val.tokens, "chars": val.chars, "bytes": val.bytes,
        },
        "by": {key: _by(key, known, val, chars) for key in ("artist", "language")},
    }  # fmt: skip
    few = _few(bins, config.seed)
    trained = score(few)
    found["trained"] = {"loss": trained.loss, "bpc": trained.bpc, "songs": few.songs}
    block_size = model.config.block_size
    if config.eval_iters and len(bins.val.tokens) > block_size:
        draw = Windows(replace(bins, train=bins.val), seed=config.seed, block_size=block_size,
                       document_mask=False)  # fmt: skip
        found["random"] = {
            "loss": random_loss(
                model, draw, runtime, iters=config.eval_iters, batch_size=config.batch_size
            ),
            "iters": config.eval_iters,
            "batch_size": config.batch_size,
            "block_size": block_size,
        }
    return found


def _known(bins: Bins) -> tuple[list[dict[str, str]], np.ndarray]:
    """Header lines of each validation song, and its characters: (n_songs,)."""
    known, chars = [], np.zeros(bins.val.songs)
    for i in range(bins.val.songs):
        head, text = bins.val.document(i)
        known.append(split_header(bins.tokenizer.decode(head.tolist()))[0])
        chars[i] = len(bins.tokenizer.decode(text.tolist()))
    return known, chars


def _interval(nats: np.ndarray, chars: np.ndarray, seed: int) -> list[float] | None:
    """Bits per character, of 95 % of corpora whose songs are drawn from these: a percentile
    bootstrap. None for one song. Other songs of these artists may be expected within it."""
    if len(nats) < 2:
        return None
    draw = np.random.default_rng(seed)
    ratios = []
    for _ in range(RESAMPLED):
        chosen = draw.integers(0, len(nats), len(nats))
        ratios.append(nats[chosen].sum() / max(1.0, chars[chosen].sum()))
    return [float(v) / math.log(2) for v in np.percentile(ratios, (2.5, 97.5))]


def _by(
    key: str, known: Sequence[Mapping[str, str]], val: SplitLoss, chars: np.ndarray
) -> dict[str, dict[str, float]]:
    """Name -> {bpc, songs, chars}, the longest first; songs that name none are "unknown"."""
    groups = defaultdict(list)
    for i, fields in enumerate(known):
        groups[fields.get(key, "unknown")].append(i)
    found = {
        name: {
            "bpc": float(val.songs[i].sum() / math.log(2) / max(1.0, chars[i].sum())),
            "songs": len(i),
            "chars": int(chars[i].sum()),
        }
        for name, i in groups.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]["chars"]))


def _few(bins: Bins, seed: int) -> Split:
    """Training songs, as many as are held out, at most TRAINED: a split of their own."""
    n = min(TRAINED, bins.val.songs, bins.train.songs)
    ids, index, texts = [], [], []
    at = 0
    for i in sorted(random.Random(seed).sample(range(bins.train.songs), n)):
        head, text = bins.train.document(i)
        index.append((at, at + 1 + len(head)))
        ids += [np.array([bins.tokenizer.eot]), head, text]
        at = index[-1][1] + len(text)
        texts.append(bins.tokenizer.decode(text.tolist()))
    stream = np.concatenate([*ids, [bins.tokenizer.eot]]).astype(np.uint32)
    n_bytes = sum(len(text.encode()) for text in texts)
    return Split(stream, np.array(index, np.uint64), n, sum(map(len, texts)), n_bytes)


# --- lyrics ---------------------------------------------------------------------------------------


def _lyrics(
    config: EvaluateConfig,
    model: GPT,
    bins: Bins,
    counted: Callable[[], NGram],
    given: Sequence[str] | None,
) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
    """Figures of songs, and the texts of the first seed for the plots.

    Args:
        given: songs to measure in place of the model's.
    """
    wanted = config.num_samples if given is None else min(config.num_samples, len(given))
    held_out = songs.HeldOut.of(bins, min(wanted, bins.train.songs))
    n = len(held_out.texts)
    if n < wanted:
        print(f"note: {_songs(n)} held out: as many are compared, not {wanted}")
    beyond = range(bins.tokenizer.vocab_size, model.vocab_size)  # ids that no text has
    never = [*bins.tokenizer.never_sampled(), *beyond]
    how = Sampling(temperature=config.temperature, top_k=config.top_k, never=never)
    known = songs.known_words(bins)
    sources = []
    for number in range(config.seeds):
        seed = config.seed + number * n
        print(f"lyrics:  {_songs(n)}, seed {number + 1} of {config.seeds} ...", flush=True)
        if given:
            written = songs.Written(random.Random(seed).sample(given, n))
        else:
            written = songs.model_songs(
                model, bins, held_out, how, seed=seed, max_new_tokens=config.max_new_tokens
            )
        sources.append(
            {
                "training": songs.training_songs(bins.train, bins, n, seed),
                "model": written,
                "5-gram": songs.ngram_songs(
                    counted(), bins, held_out, seed=seed, max_new_tokens=config.max_new_tokens
                ),
            }
        )
    index = _novelty(bins)

    def copied(text: str) -> dict[str, float]:
        if index is None:
            return {}
        found = index.measure(text)
        return {"longest_copy": found.longest_words, "copied_5grams": found.share_5gram}

    figures, short = songs.figures(
        sources, held_out, known=known, sound=partial(sounds, config.rhyme), more=copied
    )
    texts: dict[str, Sequence[str]] = {"held out": held_out.texts}
    texts |= {name: each.texts for name, each in sources[0].items()}
    return {"songs": n, "seeds": config.seeds, "too_short": short, "figures": figures}, texts


def _novelty(bins: Bins) -> Novelty | None:
    """The index of copied words beside the bins, where it stands or can be written."""
    if len(bins.train.tokens) > INDEXED and not (bins.folder / NOVELTY).is_file():
        print("note: copied words are not counted: the corpus is too large to index it by the way")
        return None
    try:
        return Novelty.open(bins)
    except OSError as error:
        print(f"note: copied words are not counted: {first_line(error)}")
        return None


def _given(path: Path) -> list[str]:
    """Texts of a file of songs: JSON lines as sample writes them, or a JSON array.

    Raises:
        DataError: it holds none.
    """
    if path.suffix == ".json":
        return [song.text for song in read_songs(path)]
    texts: list[str] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                texts.append(str(json.loads(line)["text"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as songs: {error}",
            mend='lines of {"text": ...}, as python -m backend.training.sample writes them',
        ) from None
    if not texts:
        raise DataError(f"{path} holds no songs", mend="--songs=FILE.jsonl with songs in it")
    return texts


# --- what is shown --------------------------------------------------------------------------------


def _report(found: Mapping[str, Any], run: Path) -> Report:
    report = Report(f"Evaluation of {run.name}")
    report.prose(f"{found['model']}, {found['parameters']:,} parameters, {found['precision']}.")
    if loss := found.get("loss"):
        report.section("Loss")
        rows = [["this model", f"{loss['loss']:.4f}", f"{loss['perplexity']:.2f}",
                 f"{loss['bpc']:.4f}", f"{loss['bpb']:.4f}"]]  # fmt: skip
        for name, each in found["baselines"].items():
            nats = each["loss"]
            tokens = ["", ""] if nats is None else [f"{nats:.4f}", f"{_perplexity(nats)}"]
            bpb = each["bpc"] * loss["chars"] / loss["bytes"]
            rows.append([name, *tokens, f"{each['bpc']:.4f}", f"{bpb:.4f}"])
        head = ["", "nats/token", "perplexity", "bits/character", "bits/byte"]
        report.table(head, rows)
        within = ""
        if interval := loss["bpc_interval"]:
            within = f" 95 % interval over songs: {interval[0]:.4f} to {interval[1]:.4f}."
        trained = found["trained"]
        report.prose(
            f"The whole validation split: {_songs(loss['songs'])}, {loss['tokens']:,} tokens, "
            f"{loss['chars']:,} characters, each token once.{within} On "
            f"{_songs(trained['songs'])} that it was trained on: {trained['bpc']:.4f} bits per "
            f"character, {loss['bpc'] - trained['bpc']:+.4f} to the songs it never saw."
        )
        if estimate := found.get("random"):
            report.prose(
                f"nanoGPT's estimate, for comparison with old logs: {estimate['loss']:.4f} nats "
                f"per token, the mean of {estimate['iters']} random batches of "
                f"{estimate['batch_size']} x {estimate['block_size']}."
            )
        for key, groups in found["by"].items():
            if len(groups) > 1:
                each = [
                    [name, g["songs"], f"{g['bpc']:.4f}"] for name, g in [*groups.items()][:SHOWN]
                ]
                report.table([key, "songs", "bits/character"], each)
                if len(groups) > SHOWN:
                    report.prose(f"and {len(groups) - SHOWN:,} more in evaluation.json.")
    for name, title in (("hellaswag", "HellaSwag"), ("lambada", "LAMBADA")):
        if task := found.get(name):
            report.section(title)
            report.table(
                list(task), [[v if isinstance(v, int) else f"{v:.4f}" for v in task.values()]]
            )
    if lyrics := found.get("lyrics"):
        report.section("Lyrics")
        report.prose(
            f"{_songs(lyrics['songs'])}, {lyrics['seeds']} seeds: mean ± standard deviation over "
            "them. Each song is cut to the words of the shortest of its row, but for what is of "
            "whole songs. No column is a score: what counts is how near a figure comes to "
            "`held out`, and `training` shows how far people are from each other."
        )
        if lyrics["too_short"]:
            report.prose(
                f"{lyrics['too_short']} of {lyrics['songs'] * lyrics['seeds']} rows have a song of "
                f"fewer than {songs.LEAST} words, and are left out of what is cut."
            )
        sources = list(lyrics["figures"])
        rows = [
            [key, *(_with_spread(lyrics["figures"][name].get(key)) for name in sources), meaning]
            for key, meaning in songs.MEANINGS.items()
            if any(key in lyrics["figures"][name] for name in sources)
        ]
        report.table(["", *sources, "what it is"], rows)
    if "data" in found:
        report.image("evaluation.png", "Bits per character, and the form of songs")
    return report


def _songs(n: int) -> str:
    return f"{n:,} song{'s' * (n != 1)}"


def _perplexity(nats: float) -> str:
    return f"{math.exp(nats):.2f}" if nats < 30 else f"{math.exp(nats):.1e}"


def _with_spread(value: Mapping[str, float] | None) -> str:
    if value is None:
        return ""
    digits = 3 if abs(value["mean"]) < 20 else 0
    spread = f" ± {value['spread']:.{digits}f}" if value["spread"] else ""
    return f"{value['mean']:,.{digits}f}{spread}"


def _plot(found: Mapping[str, Any], texts: Mapping[str, Sequence[str]], path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n = ("loss" in found) + bool(texts)
    figure, axes = pyplot.subplots(n, 2, figsize=(11, 3.8 * n), layout="constrained", squeeze=False)
    if "loss" in found:
        bars = {"this model": found["loss"]["bpc"]}
        bars |= {name: each["bpc"] for name, each in found["baselines"].items()}
        groups = [*found["by"]["artist"].items()][:SHOWN]
        artists = {name: each["bpc"] for name, each in groups}
        for axis, each, title in zip(axes[0], (bars, artists), ("", "by artist"), strict=True):
            axis.barh(list(each), list(each.values()), color=["C1" if title else "C7"] * len(each))
            axis.invert_yaxis()
            axis.set_title(title)
            axis.set_xlabel("bits per character")
    forms = (("line_distance", "words per line"), ("stanza_distance", "lines per stanza"))
    for axis, (key, label) in zip(axes[-1] if texts else (), forms, strict=False):
        for name, theirs in texts.items():
            form = songs.forms(theirs)[key]
            places = range(1, 1 + min(24, max(form, default=1)))
            axis.plot(places, [form[k] / max(1, form.total()) for k in places], label=name)
        axis.set_xlabel(label)
        axis.legend()
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    sys.exit(program(main, EvaluateConfig))
