"""Shared by all tests: no network but loopback, no file of the user touched."""

import os
import tempfile
from pathlib import Path

import pytest

# Before anything imports Prefect: its database and results go to a folder of their own.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-tests-")
os.environ["PREFECT_API_URL"] = ""
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from more

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own tokens and proxies change no test."""
    for name in ("GENIUS_ACCESS_TOKEN", "WANDB_API_KEY", "HTTP_PROXY", "http_proxy", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
