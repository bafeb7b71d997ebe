"""Prefect lives here and nowhere else: the stages of the backend, chained.

Prefect reads its settings when it is imported, so they stand here, before any of it. Each can be
set otherwise in the environment; processes that we start inherit them.
"""

import logging
import os
from pathlib import Path

import backend  # noqa: F401 (its settings too come before everything heavy)

if "LYRICS_WAITS" in os.environ:
    # Prefect's threads want the cores too: with spinning ones beside them an evaluation in this
    # process took seven times as long. Training, a child, looks for itself.
    os.environ.pop("GOMP_SPINCOUNT", None)

NAME = "lyrics-pipeline"  # of the flow
ROOT = Path(__file__).resolve().parents[1]

for _key, _value in {
    # Its own folder: the database of somebody's other Prefect work is not ours to migrate.
    "PREFECT_HOME": str(ROOT / ".prefect"),
    # Both are needed: the first stops the client's events, the second the server's heartbeat.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Who holds the one place of a deployment is on the disk, not in the server's memory: else the
    # place of a run that died with the server would stay taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}.items():
    os.environ.setdefault(_key, _value)

# Complains when the temporary server is gone before the last event, which nobody reads, was sent.
logging.getLogger("EventsWorker").setLevel(logging.CRITICAL)
