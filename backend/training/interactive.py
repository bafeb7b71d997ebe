"""A prompt loop: each line begins a song, which is written word by word. Part of
`backend/training/sample.py`.

Works in a terminal, with a history, and with lines that are piped in. Ctrl-C ends the song that is
being written, at the prompt the loop.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from backend.config.loader import load
from backend.config.schema import SampleConfig
from backend.errors import ConfigError, UserError
from backend.models import checkpoint
from backend.storage import Summary, sha256
from backend.training import sample

HELP = """\
Any other line begins a song.
  /again            the same beginning, another song
  /artist NAME      write in the manner of NAME; alone: of nobody in particular
  /title NAME       for a title; alone: for none
  /temp NUMBER      below 1 plays safe, above 1 dares
  /set KEY=VALUE    any key of `sample --help` that is about songs: lines=8, ban="love" "oh no"
  /save             keep the songs so far in lyrics/
  /help, /quit"""


def converse(config: SampleConfig) -> Summary:
    """Run the loop until /quit or the end of the input."""
    source = checkpoint.named(config.init_from, config.out_dir, config.checkpoint)
    run = checkpoint.home(source, config.out_dir)
    print(f"model:   {source}")
    studio = sample.Studio(config, source, sample.training_bins(config, source))
    facts = {"checkpoint": str(source.path), "checkpoint_sha256": sha256(source.files[0])}
    config = replace(config, num_samples=1)
    [start, *_] = sample.prompts_of(config)
    rows: list[dict[str, Any]] = []  # songs that are not saved
    written = 0
    print(HELP)
    for line in _lines():
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        try:
            if command == "/quit":
                break
            if command == "/help":
                print(HELP)
            elif command == "/save":
                path = sample.save(rows, run / "lyrics", rows[0]["seed"])[0] if rows else None
                print(f"{len(rows)} songs: {path}" if path else "no song to save")
                rows = []
            elif command in ("/artist", "/title"):
                config = _changed(config, command[1:], rest or "none")
            elif command == "/temp":
                config = _changed(config, "temperature", rest)
            elif command == "/set":
                key, _, value = rest.partition("=")
                config = _changed(config, key.strip(), value.strip())
            elif command.startswith("/") and command != "/again":
                raise ConfigError(f"no command {command}", mend="/help lists them")
            else:
                start = start if command == "/again" else line
                now = replace(config, seed=config.seed + written)
                written += 1
                settings = sample.settings_of(now, [start])
                for song in studio.write(now, [start]):
                    name = f"{run.name}-{source.step}-{song['seed']}"
                    rows.append({"id": name, **song, "settings": settings, **facts})
        except UserError as error:
            print(f"error: {error}")
        except KeyboardInterrupt:
            print("\n(stopped)\n")
    if rows:
        print(f"{len(rows)} songs were not saved; /save keeps them")
    return Summary("sample", run / "lyrics", {"songs": written})


def _lines() -> Iterator[str]:
    """What is typed or piped in, without blank lines, until its end or a Ctrl-C at the prompt."""
    typed = sys.stdin is not None and sys.stdin.isatty()
    if typed:
        with suppress(ImportError):  # Windows has a history of its own
            import readline  # noqa: F401  arrows and history for input()
    while sys.stdin is not None:
        try:
            line = input("> " if typed else "")
        except (EOFError, KeyboardInterrupt):
            break
        except UnicodeDecodeError:
            print("error: that line is no UTF-8")
            continue
        if line.strip():
            yield line.strip()
    print()


# what the open model was made for
FIXED = {"out_dir", "init_from", "checkpoint", "dataset", "device", "dtype", "compile", "quantize",
         "interactive", "repeat", "num_samples", "start"}  # fmt: skip


def _changed(config: SampleConfig, key: str, value: str) -> SampleConfig:
    """The settings with one key as it is typed.

    Raises:
        ConfigError: no such key, or no such value.
    """
    key = key.replace("-", "_").lstrip("_")
    if key in FIXED:
        raise ConfigError(f"{key} cannot be changed here", mend="/quit, and say it at the start")
    is_list = isinstance(getattr(config, key, None), tuple)
    one = load(SampleConfig, [f"--{key}", *_words(value)] if is_list else [f"--{key}={value}"])
    now = replace(config, **{key: getattr(one, key)})
    if wrong := list(now.problems()):
        raise ConfigError("; ".join(wrong))
    print(f"{key} = {getattr(now, key)}")
    return now


def _words(value: str) -> list[str]:
    """Words as a shell cuts them: in quotes they are one."""
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(f"{value}: {error}") from None
