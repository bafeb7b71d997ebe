"""Doctor: what is here and what is missing -> one line each, with what mends it.

    python -m backend.doctor

Reads the machine, the environment and `.env`. Writes nothing. `note` is fine to live with; where a
line says `wrong`, the exit code is 2.
"""

import hashlib
import http.client
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backend import __version__
from backend.config.loader import program
from backend.config.schema import CrawlConfig, DoctorConfig
from backend.data.tokenizers import MERGES
from backend.errors import UserError, first_line
from backend.scrapers.crawl import TOKEN, token
from backend.storage import Summary, git_commit

PREFECT_URL = "http://127.0.0.1:4200/api"  # where flows/serve.py starts a server
FASTAPI = ((0, 139), (0, 151))  # from, below: pyproject.toml says why
FREE_GB = 2.0


class Line(NamedTuple):
    """One finding."""

    state: str  # ok, note or wrong
    what: str
    mend: str = ""


def main(config: DoctorConfig) -> Summary:
    lines = []
    for check in (_python, _torch, _prefect, _server, _token, _disk, _vocabulary):
        for line in check():
            lines.append(line)
            mend = f"\n       mend: {line.mend}" if line.mend else ""
            print(f"{line.state:<6} {line.what}{mend}", flush=True)
    if wrong := [line.what for line in lines if line.state == "wrong"]:
        raise UserError(f"{len(wrong)} of {len(lines)} lines above are wrong: {'; '.join(wrong)}")
    return Summary("doctor", Path.cwd(), {"lines": len(lines)})


def _python() -> Iterator[Line]:
    commit = f", commit {commit}" if (commit := git_commit()) else ""
    yield Line(
        "ok",
        f"lyrics-pipeline {__version__}{commit}, Python {platform.python_version()}, "
        f"{platform.platform(terse=True)}",
    )


def _torch() -> Iterator[Line]:
    version = _version("torch")
    try:
        from backend.runtime import detect

        runtime = detect(training=True)
    except (ImportError, OSError, UserError) as error:  # a CUDA library of another driver, say
        yield Line("wrong", f"PyTorch {version}: {first_line(error)}", "make environment")
        return
    yield Line("ok", f"PyTorch {version}: {runtime.shown()}")
    if shutil.which("nvidia-smi") and runtime.device.type != "cuda":
        yield Line(
            "note",
            "an NVIDIA driver is here, and this PyTorch cannot use its GPUs",
            "a PyTorch with CUDA (pip install torch), or a newer driver; nvidia-smi says which",
        )


def _prefect() -> Iterator[Line]:
    versions = f"Prefect {_version('prefect')}, fastapi {_version('fastapi')}"
    numbers = tuple(int(n) for n in _version("fastapi").split(".")[:2] if n.isdigit())
    if "absent" in versions:
        yield Line("wrong", versions, "make environment")
    elif not FASTAPI[0] <= numbers < FASTAPI[1]:
        yield Line(
            "wrong",
            f"{versions}: this Prefect fails in every flow with it",
            'pip install "fastapi>=0.139,<0.151"',
        )
    else:
        yield Line("ok", versions)


def _server() -> Iterator[Line]:
    url = os.environ.get("PREFECT_API_URL") or PREFECT_URL
    if not answers(url):
        yield Line(
            "note",
            f"no Prefect server answers at {url}",
            "python -m flows.serve starts one; make lyrics needs none",
        )
        return
    theirs = _get(f"{url}/admin/version")
    if theirs in (_version("prefect"), None):
        yield Line("ok", f"a Prefect server answers at {url}")
    else:
        yield Line(
            "note",
            f"the Prefect server at {url} is version {theirs}",
            "prefect server stop; python -m flows.serve starts ours",
        )


def _token() -> Iterator[Line]:
    _, where = token(CrawlConfig())
    if where:
        yield Line("ok", f"a token of Genius is set: {where}")
    else:
        yield Line("note", f"{TOKEN} is not set; only Genius wants it", f"{TOKEN}=... in .env")


def _disk() -> Iterator[Line]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    low = free < FREE_GB
    mend = "free some: a run keeps three checkpoints, each of 12 bytes a parameter" if low else ""
    yield Line("note" if low else "ok", f"disk: {free:,.1f} GB free in {Path.cwd()}", mend)


def _vocabulary() -> Iterator[Line]:
    """GPT-2's merges where tiktoken looks for them, by its own rule."""
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    url, digest = MERGES
    file = Path(folder) / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
        yield Line("ok", f"GPT-2's vocabulary is in {folder}")
    else:
        yield Line(
            "note",
            "GPT-2's vocabulary is not here; characters and a trained bpe need none",
            "it is downloaded on first use; without network set TIKTOKEN_CACHE_DIR",
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def answers(url: str) -> bool:
    """Does a Prefect server answer at this API address? Anything else that listens there does not
    count."""
    return _get(f"{url}/health") is True


def _get(url: str) -> object:
    """The JSON at an address of this machine or network; None where there is none, whatever the
    reason."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return json.load(response)
    except (OSError, ValueError, http.client.HTTPException):
        return None


if __name__ == "__main__":
    sys.exit(program(main, DoctorConfig))
