"""How results appear on disk: whole or not at all, with a manifest that says what made them.

A stage writes under temporary names, renames at the end, and leaves
`<folder>/<stage>.manifest.json`. Same settings, stage version and inputs, and intact outputs:
there is nothing to do. Skipping lives here and nowhere else.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from backend.errors import UserError

PACKAGES = (
    "lyrics-pipeline", "torch", "numpy", "tokenizers", "tiktoken", "beautifulsoup4", "lxml", "ftfy",
    "py3langid", "rensa",
)  # fmt: skip


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path`; it takes the name when the block ends well.

    A crash, a full disk or Ctrl-C leaves the old file whole and no half file under its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    handle, name = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
    try:
        share(Path(name))
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other program writes in this folder meanwhile; what a killed one left half done goes.

    Raises:
        UserError: another is at work there; which one, and since when.
    """
    if sys.platform == "win32" or not folder.is_dir():  # a folder cannot be locked there
        yield
        return
    import fcntl

    handle, holder = os.open(folder, os.O_RDONLY), folder / ".held-by"
    held = False
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:  # else it is a file system without locks
                who = ""
                with suppress(OSError):  # it ended this moment
                    who = f": {holder.read_text(encoding='utf-8')}"
                raise UserError(
                    f"another program is writing in {folder}{who}", mend="wait until it is done"
                ) from None
        for half in folder.glob(".tmp-*"):
            if half.is_file():  # a folder of that name is a checkpoint's to clean
                half.unlink()
        with suppress(OSError):  # a folder to read from
            program = Path(sys.argv[0]).stem
            holder.write_text(f"{program}, process {os.getpid()} on {platform.node()}, since "
                              f"{time.strftime('%F %T')}", encoding="utf-8")  # fmt: skip
        yield
    finally:
        with suppress(OSError):
            if held:
                holder.unlink(missing_ok=True)
        os.close(handle)  # and with it the lock


def share(path: Path) -> None:
    """A file that mkstemp or safetensors made, 0600, for whom files are usually for."""
    path.chmod(0o666 & ~_umask())


@cache
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Atomically, indented, keys in the order given."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Summary:
    """What a stage did: for the screen, the flow and the report."""

    stage: str
    folder: Path
    counts: Mapping[str, Any] = field(default_factory=dict)  # in, out, dropped: {reason: n}, ...
    seconds: float = 0.0
    skipped: bool = False
    notes: Sequence[str] = ()

    def line(self) -> str:
        """`clean     48 in, 46 out, 1 duplicate, 1 instrumental   [0.3 s]   data/demo`."""
        flat = {k: v for k, v in self.counts.items() if not isinstance(v, dict)}
        flat |= self.counts.get("dropped", {})
        if self.skipped:
            flat.pop("new", None)  # it was, then
        counted = ", ".join(
            f"{v:,} {k}" if isinstance(v, int) else f"{k} {v}" for k, v in flat.items()
        )
        done = "nothing to do" if self.skipped else f"{self.seconds:.1f} s"
        return f"{self.stage:<9} {counted}   [{done}]   {self.folder}"


class Stage:
    """One run of a stage in a folder: is there anything to do, and the manifest at the end."""

    def __init__(
        self,
        name: str,
        version: int,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        inputs: Sequence[Path] = (),
    ) -> None:
        self.name, self.version, self.folder = name, version, folder
        self.settings = json.loads(json.dumps(dict(settings), default=str))
        self.inputs = {path: _stamp(path) for path in inputs}
        self.path = folder / f"{name}.manifest.json"
        self.started = time.monotonic()
        self._digests: dict[Path, str] = {}

    def unchanged(self) -> Summary | None:
        """The summary of the earlier run, if doing it again would change nothing."""
        try:
            old = json.loads(self.path.read_text(encoding="utf-8"))
            same = (
                old["stage_version"] == self.version
                and old["settings"] == self.settings
                and list(old["inputs"]) == [self._name(p) for p in self.inputs]
                and all(self._intact(k, v) for k, v in (old["inputs"] | old["outputs"]).items())
            )
            done = Summary(self.name, self.folder, old["counts"], old["seconds"], skipped=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # no manifest, or one we cannot read: the stage runs and writes a new one
        return done if same else None

    def finish(
        self,
        outputs: Sequence[Path] | Mapping[Path, str | None],
        counts: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> Summary:
        """Write the manifest and say what was done.

        Args:
            outputs: what was written; as a mapping, with the sha256 of those where it is known.
        """
        seconds = round(time.monotonic() - self.started, 2)
        known = outputs if isinstance(outputs, Mapping) else {}
        manifest = {
            "stage": self.name,
            "stage_version": self.version,
            "settings": self.settings,
            # as they were at the start: an input edited meanwhile makes this result an old one
            "inputs": {self._name(p): [*stamp, self.sha256(p)] for p, stamp in self.inputs.items()},
            "outputs": {self._name(p): [*_stamp(p), known.get(p) or sha256(p)] for p in outputs},
            "counts": counts,
            "seconds": seconds,
            "packages": packages(),
            "git": git_commit(),
        }
        write_json(self.path, manifest)
        return Summary(self.name, self.folder, counts, seconds, notes=notes)

    def sha256(self, input_: Path) -> str:
        """Of an input, as it was when the stage began; read once."""
        if input_ not in self._digests:
            same = _stamp(input_) == self.inputs[input_]
            self._digests[input_] = sha256(input_) if same else "changed meanwhile"
        return self._digests[input_]

    def _name(self, path: Path) -> str:
        """Relative to the folder, so that a moved corpus stays valid."""
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # another drive of Windows
            return str(path.absolute())

    def _intact(self, name: str, identity: list[Any]) -> bool:
        # by name alone, as _name made it: through a symbolic link `..` would lead elsewhere
        path = Path(os.path.normpath(self.folder.absolute() / name))
        if not path.is_file():
            return False
        size, mtime_ns, digest = identity
        if _stamp(path) == [size, mtime_ns]:
            return True
        return bool(path.stat().st_size == size and sha256(path) == digest)


def _stamp(path: Path) -> list[int]:
    """Size and time; zeros for what is not there, which its reader will say."""
    if not path.is_file():
        return [0, 0]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def packages() -> dict[str, str]:
    """Versions that decide results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def git_commit() -> str | None:
    """The commit of this code, with `+` when it has changes; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"]
        done = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
