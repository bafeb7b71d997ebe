"""Sample: a trained model -> songs on the screen and in out/<run>/lyrics/.

    python -m backend.training.sample --out_dir=out/demo --start="I walk the road" --num_samples=3
    python -m backend.training.sample --out_dir=out/demo --structure="Verse 1, Chorus, Verse 2"
    python -m backend.training.sample --out_dir=out/demo --interactive

Reads a checkpoint, the tokenizer beside it, and the training songs, to say how much of a song is
theirs. Writes lyrics/<time>-<seed>.txt and .jsonl, never over older ones, with everything needed to
make the same songs again (--repeat=FILE). The same settings on the same checkpoint give the same
songs: then they are shown again rather than written twice.
"""

import difflib
import json
import math
import os
import re
import statistics
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.config.loader import from_values, program
from backend.config.schema import SampleConfig
from backend.data.bins import Bins, Split
from backend.data.sections import section
from backend.data.song import header, split_header
from backend.data.tokenizers import ALIKE
from backend.errors import CheckpointError, ConfigError, DataError, Terminated, first_line
from backend.evaluation.loss import split_loss
from backend.evaluation.lyrics import end_rhyme_rate, quality, repeated_lines
from backend.evaluation.novelty import HUMAN, NAME, Novelty, words
from backend.models import checkpoint
from backend.models.generation import Sampling, generate, room
from backend.models.gpt import n_params
from backend.models.packed import pack
from backend.report import table
from backend.runtime import detect
from backend.storage import Stage, Summary, atomic_write, sha256
from backend.training.compose import (
    Draft,
    Open,
    Plan,
    Rules,
    Spelling,
    around,
    by_sections,
    lines_of,
    sections,
)

VERSION = 3
RULE = "─" * 60
CANDIDATE = 2**20  # what the seeds of the candidates for one song lie apart
INDEXED = 2**28  # tokens of a corpus that is indexed without being asked
JUDGED = 4096  # tokens of held-out songs by which int8 is judged
SMALL = 4_000_000  # parameters below which threads wait for each other longer than they multiply
# what of the settings is where songs lie, not what they are
PLACES = {"out_dir", "init_from", "dataset", "start", "repeat", "interactive"}


def main(config: SampleConfig) -> Summary:
    if config.interactive:
        from backend.training import interactive

        return interactive.converse(config)
    wanted = _rows_of(Path(config.repeat)) if config.repeat else []
    jobs = _as_then(config, wanted) if wanted else [(config, prompts_of(config))]
    for job, prompts in jobs:
        for prompt in prompts:
            plan_of(job, prompt)  # what cannot be shows now, not when the model is loaded
    config, prompts = jobs[0]
    source = checkpoint.named(config.init_from, config.out_dir, config.checkpoint)
    run = checkpoint.home(source, config.out_dir)
    print(f"model:   {source}")
    digest = sha256(source.files[0])
    if wanted and wanted[0].get("checkpoint_sha256") != digest:
        raise CheckpointError(
            f"{config.repeat} was written by other weights than {source}",
            mend="--out_dir=FOLDER, or --init_from, of the run that wrote it",
        )
    trained_on = training_bins(config, source)
    stage = Stage(
        "sample",
        VERSION,
        run / "lyrics",
        settings=settings_of(config, prompts)
        | {"bins": trained_on.sha256 if isinstance(trained_on, Bins) else None},
        inputs=checkpoint.inputs(source),
    )
    if not wanted and (done := stage.unchanged()):
        path = done.folder / done.counts["file"]
        print(path.read_text(encoding="utf-8") + done.line())
        return done
    studio = Studio(config, source, trained_on, rows=len(prompts) * config.num_samples)
    rows: list[dict[str, Any]] = []
    try:
        for job, prompts in jobs:
            facts: dict[str, Any] = {"settings": settings_of(job, prompts)}
            facts |= {"checkpoint": str(source.path), "checkpoint_sha256": digest}
            for song in studio.write(job, prompts):
                name = f"{run.name}-{source.step}-{song['seed']}"
                if len(prompts) > 1:
                    name += f"-{len(rows) // config.num_samples + 1}"
                rows.append({"id": name, **song, **facts})
    except (KeyboardInterrupt, Terminated):
        if rows and not wanted:
            print(f"\n{len(rows)} songs were done: {save(rows, run / 'lyrics', config.seed)[0]}")
        raise
    if wanted:
        same = [row["text"] for row in rows] == [row["text"] for row in wanted]
        if same:
            print(f"the same {len(rows)} songs as in {config.repeat}")
            return Summary("sample", run / "lyrics", {"songs": len(rows)}, skipped=True)
        print(f"note: these are not the songs of {config.repeat}: another version or processor")
    outputs = save(rows, run / "lyrics", config.seed)
    summary = stage.finish(outputs, {"songs": len(rows), "file": outputs[0].name})
    print(summary.line())
    return summary


# --- what is asked for ----------------------------------------------------------------------------


def settings_of(config: SampleConfig, prompts: Sequence[str]) -> dict[str, Any]:
    """What makes songs again, wherever weights and training songs lie then."""
    settings = {k: None if k in PLACES else v for k, v in config.as_dict().items()}
    return settings | {"prompts": list(prompts)}


def prompts_of(config: SampleConfig) -> list[str]:
    """The texts that songs begin with.

    Raises:
        ConfigError: a file that cannot be read, a text that is none.
    """
    for key, text in (("start", config.start), ("artist", config.artist), ("title", config.title)):
        if text and text.encode("utf-8", "replace").decode() != text:  # half a surrogate pair
            raise ConfigError(
                f"{key} holds a byte that is no UTF-8", mend="--start=FILE:prompt.txt"
            )
    if not config.start.startswith("FILE:"):
        return [config.start]
    path = Path(config.start.removeprefix("FILE:"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the prompt file {path}: {error}",
            mend='--start="..." takes the text itself',
        ) from None
    parts = (part.strip("\n") for part in re.split(r"(?m)^-{3,}[^\S\n]*\n?", text))
    return [part for part in parts if part] or [""]


def plan_of(config: SampleConfig, prompt: str) -> Plan:
    """What is fixed in the song, and what is to be written.

    Raises:
        ConfigError: lines to keep that are not there.
    """
    if config.structure:
        return by_sections(sections(config.structure), prompt, config.lines)
    if not config.keep:
        return [prompt, Open("song", config.lines, config.stanzas)]
    keep: set[int] = set()
    for part in config.keep.split(","):
        first, _, last = part.partition("-")
        keep.update(range(int(first), int(last or first) + 1))
    n = len(lines_of(prompt))
    if min(keep) < 1 or max(keep) > n or len(keep) == n:
        raise ConfigError(
            f"keep = {config.keep}, and the start has {n} lines",
            why="lines are counted from 1, without blank ones and headers",
            mend="--keep=1-4,7 names lines that stay; at least one has to be left to write",
        )
    return around(prompt, keep)


def training_bins(config: SampleConfig, source: checkpoint.Source) -> Bins | str:
    """The songs that the weights were trained on; or why they are not known."""
    if config.dataset:
        return Bins.open(config.dataset)
    dataset = checkpoint.dataset_of(source)
    if dataset is None:
        return "these weights do not say what they were trained on (--dataset names bins)"
    try:
        bins = Bins.open(dataset)
    except DataError as error:
        return f"the training songs are not here ({error.what}; --dataset names bins)"
    if checkpoint.facts_of(source).get("data_sha256") not in (None, bins.sha256):
        return f"{bins.folder} is not what it was in training (--dataset={dataset} takes it anyway)"
    return bins


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of lyrics.

    Raises:
        ConfigError: it is none.
    """
    path = path.with_suffix(".jsonl") if path.suffix == ".txt" else path
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines: at U+2028 too
        rows = [json.loads(line) for line in lines if line.strip()]
        if not rows or any({"text", "settings", "seed"} - row.keys() for row in rows):
            raise ValueError("it has no rows with text, settings and seed")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} holds no songs of this program: {error}",
            mend="--repeat=out/<run>/lyrics/<time>-<seed>.jsonl",
        ) from None
    return rows


def _as_then(
    config: SampleConfig, rows: Sequence[Mapping[str, Any]]
) -> list[tuple[SampleConfig, list[str]]]:
    """The settings and prompts of rows, each once, but for where weights and songs lie now."""
    now: dict[str, Any] = {"repeat": config.repeat, "device": config.device}
    now |= {"out_dir": config.out_dir, "init_from": config.init_from, "dataset": config.dataset}
    if config.out_dir is None and config.init_from == "resume":
        now["init_from"] = rows[0].get("checkpoint") or "resume"
    jobs: list[tuple[SampleConfig, list[str]]] = []
    for row in rows:
        then = dict(row["settings"])
        prompts = then.pop("prompts", None) or [then.get("start") or ""]
        then = {k: v for k, v in then.items() if k not in PLACES} | now
        job = (from_values(SampleConfig, {k: v for k, v in then.items() if v is not None}), prompts)
        if job not in jobs:
            jobs.append(job)
    return jobs


# --- writing --------------------------------------------------------------------------------------


class Studio:
    """A model that is ready to write, its tokenizer, and the songs it learnt from."""

    def __init__(
        self,
        config: SampleConfig,
        source: checkpoint.Source,
        trained_on: Bins | str,
        *,
        rows: int = 1,
    ) -> None:
        self.source = source
        runtime = detect(device=config.device, dtype=config.dtype)
        # packed weights are of the precision themselves: nothing is cast on the way
        self.runtime = replace(runtime, dtype=torch.float32)
        tokenizer = checkpoint.load_tokenizer(source)
        model = checkpoint.load_model(source, self.runtime.device)
        checkpoint.check_numbers(source, model)
        if self.runtime.device.type == "cpu" and n_params(model) < SMALL:
            torch.set_num_threads(1)
        self.spelling = Spelling(tokenizer, model.vocab_size)
        self.never = [
            *(i for i in tokenizer.never_sampled() if i < model.vocab_size),
            *range(tokenizer.vocab_size, model.vocab_size),  # ids that no text has
        ]
        self.novelty: Novelty | None = None
        self.unknown = trained_on if isinstance(trained_on, str) else ""  # why novelty is
        if isinstance(trained_on, Bins):
            try:
                self.novelty = _index(trained_on, asked=bool(config.dataset or config.max_copy))
            except (OSError, DataError) as error:
                self.unknown = f"the training songs have no index: {first_line(error)}"
        at_once = min(rows * config.best_of, room(model))
        before = self._held_out_loss(model, trained_on) if config.quantize else None
        self.model = pack(model, torch.int8 if config.quantize else runtime.dtype, at_once)
        if config.quantize:
            after = self._held_out_loss(self.model, trained_on)
            if before and after:
                change = f"{before:.4f} -> {after:.4f} ({after / before - 1:+.2%})"
                print(f"int8:    loss of held-out songs {change}")
            else:
                print(f"int8:    what it costs is unknown: {self.unknown}")
        if config.compile is True:
            print("note: each step is of another length, and compiled anew: going without compile")

    def _held_out_loss(self, model: Any, trained_on: Bins | str) -> float | None:
        """Nats a token over the first held-out songs."""
        if isinstance(trained_on, str) or not trained_on.val.songs:
            return None
        val, tokens = trained_on.val, 0
        for n in range(val.songs):
            tokens += sum(map(len, val.document(n, most=JUDGED)))
            if tokens >= JUDGED:
                break
        end = int(val.index[n + 1][0]) if n + 1 < val.songs else len(val.tokens) - 1
        end = min(end, int(val.index[n][0]) + JUDGED)  # a text may be a whole book
        few = Split(val.tokens[: end + 1], val.index[: n + 1], n + 1, 1, 1)
        return split_loss(model, few, self.runtime).loss

    def write(self, config: SampleConfig, prompts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Songs as rows, each as soon as it is done: on the screen word by word, or, where the best
        of several is kept, when that is known.

        Raises:
            ConfigError: something is asked for that cannot be.
        """
        self._say_what_is_new(config, prompts)
        fields = {"artist": self._artist(config.artist) or "", "title": config.title or ""}
        head, rules = header(fields), self._rules(config)
        eot = self.spelling.eot
        opening = [eot] if eot is not None else self.spelling.encode("\n") or [0]
        front = [*opening, *self.spelling.encode(head)]
        groups = [
            [
                Draft(
                    plan_of(config, prompt),
                    rules,
                    self.spelling,
                    front=front,
                    headed=bool(head),
                    seed=config.seed + i + j * CANDIDATE,
                    left=config.max_new_tokens,
                )
                for j in range(config.best_of)
            ]
            for prompt in prompts
            for i in range(config.num_samples)
        ]
        drafts = {draft.row: draft for group in groups for draft in group}
        how = Sampling(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            never=self.never,
        )
        shown = 0  # songs of which all is on the screen
        begun = False  # the next one is

        def row_of(n: int, draft: Draft) -> dict[str, Any]:
            own, song = split_header(head + draft.text)
            return {
                "text": song,
                "prompt": head + prompts[n // config.num_samples],
                "artist": own.get("artist"),
                "title": own.get("title"),
                "structure": config.structure,
                "seed": draft.row.seed,
                "finish": draft.finish,
                "refused": dict(draft.refused),
                "bpc": round(self._nats(draft) / math.log(2) / max(1, len(draft.text)), 4),
                "novelty": self._how_new(song),
                "quality": {k: round(v, 4) for k, v in quality(song).items()},
            }

        steps = generate(self.model, list(drafts), how)
        for row, token in steps:
            drafts[row].take(token)
            while config.best_of == 1 and shown < len(groups):
                [draft] = groups[shown]
                if not begun and (draft.body is not None or draft.over):
                    begun = True
                    own, _ = split_header(head + draft.text)
                    print(_head(own.get("title"), own.get("artist")), end="")
                if begun and (new := draft.fresh()):
                    print(new, end="", flush=True)
                if not draft.over:
                    break
                song = row_of(shown, draft)
                print(f"\n\n{_grey(foot(song))}\n")
                yield song
                shown, begun = shown + 1, False
        if config.best_of > 1:
            for n, group in enumerate(groups):
                draft, scores = self._best(config, group, head)
                song = row_of(n, draft)
                song["best_of"] = scores
                print(shown_as(song, grey=True))
                yield song

    def _how_new(self, song: str) -> dict[str, Any]:
        """What of a song stood in the training songs, beside what of people's songs does."""
        if not self.novelty:
            known = dict.fromkeys(("longest_words", "song_id", "share_5gram"))
            return known | {"unknown": self.unknown}
        run = self.novelty.longest_run(song)
        return {
            "longest_words": run.n_words,
            "song_id": run.song and run.song.id,
            "share_5gram": round(self.novelty.seen_share(song), 4),
            "song": run.song and named(run.song.title, run.song.artist),
            "words": run.words,
            "human": self.novelty.human and vars(self.novelty.human),
        }

    def _rules(self, config: SampleConfig) -> Rules:
        if config.max_copy and not self.novelty:
            raise ConfigError(f"max_copy = {config.max_copy} cannot be held: {self.unknown}")
        pairs = (pair.rpartition("=") for pair in config.word_bias)
        bias = {words(name)[0]: float(number) for name, _, number in pairs if words(name)}
        return Rules(
            stop=config.stop,
            banned=[said for text in config.ban if (said := words(text))],
            no_repeat=config.no_repeat_ngram,
            copied=self.novelty.copied if self.novelty else None,
            max_copy=config.max_copy,
            repetition=config.repetition_penalty,
            presence=config.presence_penalty,
            bias=bias,
        )

    def _artist(self, name: str | None) -> str | None:
        """The artist as the training songs spell the name; what is not known is told."""
        if not name:
            return None
        if not self.novelty:
            print(f"note: whether the model has read {name} is unknown: {self.unknown}")
            return name
        known = {_plain(artist): artist for artist in self.novelty.artists}
        if found := known.get(_plain(name)):
            return found
        near = difflib.get_close_matches(_plain(name), known, n=3)
        some = [known[key] for key in near] or self.novelty.artists[:5]
        told = f"; {'the nearest' if near else 'some'}: {', '.join(some)}" if some else ""
        print(f"note: the training songs have no artist {name}, so the name says little{told}")
        return name

    def _say_what_is_new(self, config: SampleConfig, prompts: Sequence[str]) -> None:
        """Characters that the model never saw, and prompts longer than it can see."""
        tokenizer, block_size = self.spelling.tokenizer, self.model.config.block_size
        asked = header({"artist": config.artist or "", "title": config.title or ""})
        if unseen := tokenizer.unseen(asked + "".join(prompts)):
            lost = "left out" if self.spelling.eot is None else "read as unknown"
            read = {c: tokenizer.nearest(c) for c in unseen}
            become = (
                f"{c!r} is {lost if read[c] == c else f'read as {read[c]!r}'}" for c in unseen
            )
            print(f"note: the model never saw some characters: {', '.join(become)}")
        for name in _unknown_sections(config.structure or ""):
            print(f"note: no song has a section {name} (as in Verse 2, Chorus, Bridge, Outro)")
        longest = max(len(self.spelling.encode(asked + prompt)) for prompt in prompts) + 1
        if longest > block_size:
            print(
                f"note: the prompt has {longest:,} tokens and the model sees {block_size:,}: it "
                "reads the header and the end of it"
            )

    def _best(
        self, config: SampleConfig, group: Sequence[Draft], head: str
    ) -> tuple[Draft, dict[str, Any]]:
        """The candidate that is best by rank_by, and the figures of all on the screen."""
        pairs = (pair.rpartition("=") for pair in config.rank_by)
        weights = {name: float(number) for name, _, number in pairs}
        if not self.novelty:
            weights.pop("novelty", None)
        songs = [split_header(head + draft.text)[1] for draft in group]
        people = self._repeated_by_people() if "repetition" in weights else 0.0
        measures = {
            "rhyme": lambda i: end_rhyme_rate(songs[i]),
            "repetition": lambda i: -abs(repeated_lines(songs[i]) - people),
            "likelihood": lambda i: -self._nats(group[i]) / max(1, len(group[i].text)),
            "novelty": lambda i: -(self.novelty.seen_share(songs[i]) if self.novelty else 0.0),
        }
        figures = {name: [measures[name](i) for i in range(len(group))] for name in weights}
        scores = [0.0] * len(group)
        for name, values in figures.items():
            mean, spread = statistics.fmean(values), statistics.pstdev(values)
            for i, value in enumerate(values):
                scores[i] += weights[name] * (value - mean) / spread if spread else 0.0
        best = max(range(len(group)), key=scores.__getitem__)
        head_line = ["seed", *(f"{name} (weight {w:g})" for name, w in weights.items()), "score"]
        lines = [
            [draft.row.seed, *(f"{figures[name][i]:.3f}" for name in weights), f"{scores[i]:+.2f}"]
            for i, draft in enumerate(group)
        ]
        print(table(head_line, lines) + "\n")
        told = {name: round(values[best], 4) for name, values in figures.items()}
        return group[best], {"of": len(group), "weights": weights, **told}

    def _nats(self, draft: Draft) -> float:
        """-ln p of what was written, and of its end, under the model as it is."""
        ids = draft.row.ids
        ids = ids[:-1] if ids[-1] == self.spelling.eot else ids
        stream = np.array([*ids, ids[0]])  # end of text stands before a song and behind it
        index = np.array([[0, draft.front]], dtype=np.uint64)
        return split_loss(self.model, Split(stream, index, 1, 1, 1), self.runtime).nats

    def _repeated_by_people(self) -> float:
        """Share of repeated lines in held-out songs; where there are none, 0."""
        if not self.novelty:
            return 0.0
        val, decode = self.novelty.bins.val, self.spelling.tokenizer.decode
        texts = (decode(val.document(i)[1]) for i in range(min(val.songs, HUMAN)))
        shares = [repeated_lines(text) for text in texts]
        return statistics.fmean(shares) if shares else 0.0


def _unknown_sections(structure: str) -> list[str]:
    return [header for header in sections(structure) if section(header) is None]


def _index(bins: Bins, *, asked: bool) -> Novelty:
    """What stands in the training songs.

    Raises:
        DataError, OSError: it cannot be indexed, or is too large to be without being asked.
    """
    if not (bins.folder / NAME).is_file():
        if len(bins.train.tokens) > INDEXED and not asked:
            raise DataError(f"{bins.folder} is large, and --dataset={bins.folder} was not said")
        print("novelty: reading the training songs, once ...", flush=True)
    return Novelty.open(bins)


def _plain(name: str) -> str:
    """A name without case, accents and punctuation."""
    folded = unicodedata.normalize("NFKD", "".join(ALIKE.get(c, c) for c in name).casefold())
    return "".join(filter(str.isalnum, folded))


# --- what is shown and kept -----------------------------------------------------------------------


def named(title: str | None, artist: str | None) -> str:
    return " · ".join(part for part in (title, artist) if part) or "Untitled"


def _head(title: str | None, artist: str | None) -> str:
    return f"{RULE}\n{named(title, artist)}\n{RULE}\n"


def foot(row: Mapping[str, Any]) -> str:
    """What is to be said of a song, in a line: seed, how it ended, what was taken back, how the
    model likes it, how new it is."""
    said = [f"seed {row['seed']}"]
    said += ["cut at max_new_tokens"] * (row["finish"] == "length")
    if refused := row["refused"]:
        said.append("taken back: " + ", ".join(f"{why} ×{n}" for why, n in refused.items()))
    said.append(f"{row['bpc']:.2f} bits per character")
    new = row["novelty"]
    if "unknown" in new:
        return f"({'; '.join([*said, 'novelty unknown: ' + new['unknown']])})"
    n = new["longest_words"]
    text = f"longest run from a training song: {n} word{'s' * (n != 1)}"
    if new["song"]:
        text += f", “{new['words']}” ({new['song']})"
    said += [text, f"{new['share_5gram']:.1%} of its 5-word runs stand in training songs"]
    if human := new["human"]:
        said.append(f"held-out songs: {human['longest_words']:g} words, {human['share_5gram']:.1%}")
    return f"({'; '.join(said)})"


def _grey(text: str) -> str:
    """On a terminal, so that it is not taken for the song's."""
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\033[90m{text}\033[0m" if coloured else text


def shown_as(row: Mapping[str, Any], *, grey: bool = False) -> str:
    """A song as people read it: a head line, the text, a foot."""
    head = _head(row["title"], row["artist"])
    last = _grey(foot(row)) if grey else foot(row)
    return f"{head}{row['text'].strip()}\n\n{last}\n"


def save(rows: Sequence[Mapping[str, Any]], folder: Path, seed: int) -> list[Path]:
    """Both files of these songs, under a name that is free: .txt, .jsonl."""
    name = taken = f"{datetime.now():%Y%m%d-%H%M%S}-{seed}"
    n = 1
    while (folder / f"{taken}.txt").exists():
        n += 1
        taken = f"{name}-{n}"
    outputs = [folder / f"{taken}{suffix}" for suffix in (".txt", ".jsonl")]
    with atomic_write(outputs[0]) as file:
        file.write("\n".join(shown_as(row) for row in rows))
    with atomic_write(outputs[1]) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return outputs


if __name__ == "__main__":
    sys.exit(program(main, SampleConfig))
