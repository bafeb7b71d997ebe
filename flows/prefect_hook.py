"""Prefect's own command line, in this project: our settings, and a default deployment.

`prefect deployment run` wants FLOW/DEPLOYMENT and splits at the slash before it asks any server, so
no setting and no alias can make the bare name mean one. Prefect runs plugins before it reads its
arguments (`[tool.prefect.plugins]` in pyproject.toml switches that on, in this folder only); this
one writes the bare name out. Importing `flows` sets PREFECT_HOME and what else we set.
"""

import sys
from collections.abc import Sequence

from prefect.plugins import HookContext, register_hook

from flows import NAME


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """What Prefect calls when it is imported."""
    sys.argv = written_out(sys.argv)


def written_out(argv: Sequence[str]) -> list[str]:
    """`prefect deployment run lyrics-pipeline ...` with `/default` behind the name; any other
    command as it is. The value of an option, as in `--tag lyrics-pipeline`, is no name."""
    words = list(argv)
    if words[1:3] == ["deployment", "run"]:
        for i, word in enumerate(words[3:], start=3):
            option = words[i - 1].startswith("-") and words[i - 1] != "--watch"
            if word == NAME and not option:
                words[i] = f"{NAME}/default"
    return words
