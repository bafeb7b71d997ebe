"""The deployments: one per hardware profile, each one run at a time.

`flows/serve.py` serves them; `prefect.yaml` declares the same for work pools, and a test compares
both. A deployment sets the profile and nothing else, so that no parameter of a run hides another.
"""

from typing import cast

from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from flows.lyrics_pipeline import lyrics_pipeline

PROFILES = {
    "default": "auto",
    "cpu": "cpu",
    "mps": "mps",
    "rtx3050": "rtx3050",
    "a100-node": "a100_node",
}


def build() -> list[RunnerDeployment]:
    """Found by module, not by file: they run wherever the package is installed, in the folder that
    holds data/ and out/."""
    found = [
        lyrics_pipeline.to_deployment(
            name,
            parameters={"profile": profile},
            tags=["lyrics", name],
            concurrency_limit=1,  # the second waits
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for name, profile in PROFILES.items()
    ]
    return cast(list[RunnerDeployment], found)  # a coroutine only where a loop runs
