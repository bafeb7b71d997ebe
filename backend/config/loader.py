"""Config files and `--key=value` -> one frozen dataclass; help; the frame programs run in.

    python -m backend.training.train config/train_darklyrics.py --max_iters=100 --out_dir out/short

Config files come first, then keys; the last one wins. A config file is Python that the user runs on
purpose, with plain assignments (nanoGPT's shape); names with a leading underscore are its own.
"""

import ast
import dataclasses
import difflib
import errno
import inspect
import os
import runpy
import signal
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from backend.config.schema import Settings
from backend.errors import ConfigError, Terminated, UserError

S = TypeVar("S", bound=Settings)

BACKEND = Path(__file__).resolve().parent.parent
SPLIT_AT_COMMAS = {
    "source",
    "letters",
    "languages",
    "stages",
    "log_to",
    "only",
    "preset",
}  # artists never
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def program(
    main: Callable[[S], Any],
    config_type: type[S],
    argv: Sequence[str] | None = None,
    about: str | None = None,
) -> int:
    """Load the settings, run `main`, and return the exit code: 0 done, 2 the user must change
    something, 130 interrupted, 143 terminated. A bug keeps its traceback.

    Args:
        about: first part of --help; None is the docstring of main's module.
    """
    for stream in (sys.stdout, sys.stderr):  # a console that is not UTF-8 shows '?', it never dies
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else list(argv)
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        if any(word in ("--help", "-h") for word in argv):
            if about is None:
                about = inspect.getdoc(sys.modules[main.__module__])
            print(help_text(config_type, about or ""))
            sys.stdout.flush()
            return 0
        main(load(config_type, argv))
        return 0
    except UserError as error:
        _tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted; what was finished is kept")
        return 130
    except Terminated:
        _tell("terminated; what was finished is kept")
        return 143
    except BrokenPipeError:  # whoever read us has seen enough, as `| head` does
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or Python complains at exit
        return 130
    except OSError as error:
        if error.errno not in USERS_DISK:
            raise
        where = f" {error.filename}" if error.filename else " the disk"
        _tell(
            f"error: cannot use{where}: {error.strerror}\n"
            "  mend: choose another folder, or free space and permissions there"
        )
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def _tell(text: str) -> None:
    """On stderr, unless the terminal is gone: the exit code says it too."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # or Python tries again at exit, and exits with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


# Faults of the user's disk rather than of our code.
USERS_DISK = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
    errno.EFBIG,
    errno.EIO,
}


def _raise_terminated(*_: object) -> NoReturn:
    raise Terminated


def load(config_type: type[S], argv: Sequence[str]) -> S:
    """Settings of `config_type` from config files and flags.

    Raises:
        ConfigError: naming every unknown key, wrong type and impossible value at once.
    """
    hints = fields_of(config_type)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []

    def take(given: dict[str, Any], origin: str) -> None:
        """One file, or the command line: the later one wins over all that came before."""
        for key, value in _expanded(config_type, given).items():
            values[key], origins[key] = value, origin

    files, words = _split(argv, problems)
    for name in files:
        path = find_config(name)
        given: dict[str, Any] = {}
        for key, value in _run(path).items():
            if key not in hints:
                problems.append(f"{path.name}: {_unknown(key, hints)}")
                continue
            try:
                given[key] = _coerce(value, hints[key])
            except ValueError as error:
                problems.append(f"{path.name}: {key} = {value!r}: {error}")
        take(given, path.name)
    given = {}
    for key, texts in _flags(words, hints, problems):
        try:
            given[key] = _parse(key, texts, hints[key])
        except ValueError as error:
            problems.append(f"--{key}={' '.join(texts)}: {error}")
    take(given, "command line")

    return _build(config_type, values, origins, problems)


def _expanded(config_type: type[Settings], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, over what it is short for."""
    short = {
        k: v for key, value in given.items() for k, v in config_type.stands_for(key, value).items()
    }
    return short | dict(given)


def from_values(config_type: type[S], values: Mapping[str, Any]) -> S:
    """Settings from values that another program gives, such as the parameters of a flow.

    Raises:
        ConfigError: as `load`.
    """
    hints = fields_of(config_type)
    good: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in values.items():
        if key not in hints:
            problems.append(_unknown(key, hints))
            continue
        try:
            good[key] = _coerce(value, hints[key])
        except ValueError as error:
            problems.append(f"{key}: {error}")
    good = _expanded(config_type, good)
    return _build(config_type, good, dict.fromkeys(good, "parameter"), problems)


def _build(
    config_type: type[S], values: dict[str, Any], origins: dict[str, str], problems: list[str]
) -> S:
    """The settings, with the hardware profile laid under them; or all problems at once."""
    config = config_type(**values, origins=origins)
    if profile := config.profile_file():
        hints = fields_of(config_type)
        under = {k: v for k, v in _run(find_config(profile)).items() if k not in values}
        values |= {k: _coerce(v, hints[k]) for k, v in under.items()}
        config = config_type(**values, origins=origins | dict.fromkeys(under, profile))
    problems = [*problems, *config.problems()]
    if not problems:
        return config
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)} with the settings:"
    raise ConfigError(
        "\n  ".join([count, *problems]),
        mend="--help lists every key, its default and its meaning",
    )


def find_config(name: str) -> Path:
    """The config file called `name`: in the current folder, else in `backend/`."""
    places = [Path(name), BACKEND / name]
    for place in places:
        if place.is_file():
            return place
    shipped = sorted(
        f"config/{p.name}" for p in (BACKEND / "config").glob("*.py") if p.name not in NOT_RECIPES
    )
    near = difflib.get_close_matches(name, shipped, n=1)
    raise ConfigError(
        f"no config file {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        why="looked at " + " and ".join(str(p) for p in places),
        mend="shipped recipes: " + ", ".join(shipped),
    )


NOT_RECIPES = {"__init__.py", "schema.py", "loader.py", "kinds.py"}


def fields_of(config_type: type[Settings]) -> dict[str, Any]:
    """Key -> type, in the order of the schema."""
    hints = typing.get_type_hints(config_type)
    return {f.name: hints[f.name] for f in dataclasses.fields(config_type) if f.name != "origins"}


def help_text(config_type: type[Settings], about: str) -> str:
    """`--help` from the schema: every key, its type, its default and its meaning, by group."""
    hints, defaults = fields_of(config_type), config_type().as_dict()
    lines = [about, "", "Keys (--key=value; - and _ are alike; a bare boolean is true):"]
    groups = [
        c for c in reversed(config_type.__mro__) if issubclass(c, Settings) and c is not Settings
    ]
    for group in groups:
        docs = field_docs(group)
        if not docs:
            continue
        if len(groups) > 1 and (title := inspect.getdoc(group)):
            lines += ["", title.splitlines()[0]]
        for key, doc in docs.items():
            head = f"--{key}={_show(defaults[key])}  ({_type_name(hints[key])})"
            lines += textwrap.wrap(
                head, 96, initial_indent="  ", subsequent_indent="      ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            lines += textwrap.wrap(doc, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def field_docs(cls: type[Settings]) -> dict[str, str]:
    """Field -> the docstring under it, for the fields that `cls` itself declares."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:] + [ast.Pass()], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            docs[statement.target.id] = " ".join(str(after.value.value).split()) if is_doc else ""  # type: ignore[attr-defined]
    docs.pop("origins", None)
    return docs


# --- reading -------------------------------------------------------------------------------------


def _split(argv: Sequence[str], problems: list[str]) -> tuple[list[str], list[str]]:
    """Config files (bare words before the first flag), and the rest."""
    first = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    files = []
    for word in argv[:first]:
        if word.endswith(".py"):
            files.append(word)
        else:
            problems.append(f"{word!r} is neither a config file (*.py) nor --key=value")
    return files, list(argv[first:])


def _flags(
    words: list[str], hints: Mapping[str, Any], problems: list[str]
) -> list[tuple[str, list[str]]]:
    """`--key=value`, `--key value`, `--flag`, `--list a b c` -> (key, texts)."""
    found: list[tuple[str, list[str]]] = []
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--"):
            problems.append(f"{word!r} stands alone; write --key=value, config files first")
            continue
        name, equals, text = word[2:].partition("=")
        key = name.replace("-", "_")
        known = key in hints
        if not known:
            problems.append(_unknown(key, hints))
        following = []
        while i < len(words) and not words[i].startswith("--"):
            following.append(words[i])
            i += 1
        if equals:
            texts = [text]
            if known and _is_list(hints[key]):
                texts += following
                following = []
        elif not known or _is_list(hints[key]):
            texts, following = following, []
        elif bool in _options(hints[key]) and not (following and _fits(following[0], hints[key])):
            texts = ["true"]
        else:
            texts, following = following[:1], following[1:]
        problems += [
            f"{w!r} stands alone after --{name}; quote values with spaces" for w in following
        ]
        if not known:
            continue
        if not texts:
            problems.append(f"--{key} needs a value ({_type_name(hints[key])})")
            continue
        found.append((key, texts))
    return found


def _fits(text: str, hint: Any) -> bool:
    """Is this word a value of a key that may also stand bare?"""
    return text.lower() in WORDS or text in _choices(hint)


def _run(path: Path) -> dict[str, Any]:
    """The plain assignments of a config file."""
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        raise ConfigError(f"{path} does not run: {type(error).__name__}: {error}") from error
    skipped = (types.ModuleType, types.FunctionType, type)
    return {k: v for k, v in names.items() if not k.startswith("_") and not isinstance(v, skipped)}


def _unknown(key: str, hints: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type: int | None -> (int, NoneType)."""
    # X | None is types.UnionType; with a Literal in it, it is typing.Union
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _parse(key: str, texts: list[str], hint: Any) -> Any:
    """Words of the command line -> a value of type `hint`, or ValueError with the reason."""
    if _is_list(hint):
        (item, _) = typing.get_args(hint)
        if key in SPLIT_AT_COMMAS:
            texts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
        return tuple(_parse(key, [text], item) for text in texts)
    if len(texts) != 1:
        raise ValueError(f"expected one value ({_type_name(hint)}), got {len(texts)}")
    text = texts[0]
    if type(None) in _options(hint) and text.lower() in {"none", ""}.difference(_choices(hint)):
        return None
    for option in _options(hint):
        if typing.get_origin(option) is Literal and text in typing.get_args(option):
            return text
        if option is bool and text.lower() in WORDS:
            return WORDS[text.lower()]
        if option in (int, float):
            try:
                return option(text.replace("_", ""))
            except ValueError:
                continue
        if option is str:
            return text
    raise ValueError(_expected(text, "text", hint))


def _coerce(value: Any, hint: Any) -> Any:
    """A value of a config file as type `hint` (an int where a float is declared is fine)."""
    if _is_list(hint):
        (item, _) = typing.get_args(hint)
        if isinstance(value, str):
            value = (value,)  # one word is a list of one
        if isinstance(value, list | tuple):
            return tuple(_coerce(v, item) for v in value)
        raise ValueError(_expected(value, type(value).__name__, hint))
    for option in _options(hint):
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and type(value) in (int, float):
            return float(value)
        elif type(value) is option:  # not isinstance: True is no int here
            return value
    raise ValueError(_expected(value, type(value).__name__, hint))


def _expected(value: Any, kind: str, hint: Any) -> str:
    near = difflib.get_close_matches(str(value), _choices(hint), n=1)
    return f"{value!r} is {kind}, expected {_type_name(hint)}" + (
        f"; did you mean {near[0]!r}?" if near else ""
    )


def _choices(hint: Any) -> list[str]:
    literals = (o for o in _options(hint) if typing.get_origin(o) is Literal)
    return [choice for literal in literals for choice in typing.get_args(literal)]


def _type_name(hint: Any) -> str:
    names = []
    for option in _options(hint):
        if typing.get_origin(option) is Literal:
            names += [str(choice) for choice in typing.get_args(option)]
        elif _is_list(option):
            names.append(f"list of {_type_name(typing.get_args(option)[0])}")
        else:
            names.append("none" if option is type(None) else option.__name__)
    return " | ".join(names)


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
