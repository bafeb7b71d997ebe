"""The flow: crawl -> clean -> binarize -> train -> sample, and a report.

    python -m flows.lyrics_pipeline
    python -m flows.lyrics_pipeline --source=darklyrics --artists "Opeth" "At the Gates"

Runs on a temporary Prefect server that starts and stops with it; nothing else has to be started.
Writes data/<dataset>/ and out/<run>/. A second run does only what changed.
"""

import subprocess
import sys
from functools import partial
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed

from backend.config.loader import from_values, load, program
from backend.config.schema import PipelineConfig, TrainConfig
from backend.errors import ConfigError, UserError
from backend.report import Report
from backend.storage import Summary
from backend.training.log import add_training
from flows import stages as tasks


@flow(name="lyrics-pipeline", validate_parameters=False)
def lyrics_pipeline(
    profile: str = "auto",
    source: list[str] | None = None,
    artists: list[str] | None = None,
    artist_file: str | None = None,
    max_songs: int | None = None,
    path: str | None = None,
    dataset: str | None = None,
    run: str | None = None,
    tokenizer: str = "auto",
    config: str | None = None,
    train_overrides: list[str] | None = None,
    num_samples: int = 3,
    start: str = "",
    stages: list[str] | None = None,
    force: bool = False,
) -> State[Any]:
    """Songs in the manner of the artists you love. Every parameter is a key of PipelineConfig."""
    given = {key: value for key, value in locals().items() if value is not None}
    try:
        settings = from_values(PipelineConfig, given)
        if "train" in settings.stages:  # a typo shows now, not after hours of crawling
            load(TrainConfig, tasks.train_command(settings)[1:])
    except ConfigError as error:
        return Failed(message=str(error), data=error)
    summaries: list[Summary] = []
    for name in settings.stages:
        ended: State[Any] = tasks.STAGES[name](settings, return_state=True)
        result = ended.result(raise_on_failure=False)
        if isinstance(result, UserError):
            named = UserError(f"{name}: {result.what}", result.why, result.mend)
            return Failed(message=str(named), data=named)
        summaries.append(cast(Summary, ended.result()))  # raises what was a bug, with its traceback
    _close(settings, summaries)
    return Completed(message="all stages are done", data=summaries)


def _close(settings: PipelineConfig, summaries: list[Summary]) -> None:
    """The report, and what is where."""
    out_dir = tasks.out_dir(settings)
    if not (out_dir / "metrics.jsonl").is_file():
        return  # stages before training alone
    report = Report(f"Lyrics of {out_dir.name}").section("Stages")
    report.table(
        ["stage", "what it did", "seconds"],
        [
            [s.stage, s.line().removeprefix(s.stage).split("[")[0].strip(),
             f"{s.seconds:.1f}" + (" (earlier; nothing to do now)" if s.skipped else "")]
            for s in summaries
        ],
    )  # fmt: skip
    add_training(report, out_dir)
    lyrics = next((s for s in summaries if s.stage == "sample"), None)
    where = {"loss curve": out_dir / "loss.png", "report": out_dir / "report.md"}
    if lyrics:
        songs = lyrics.folder / lyrics.counts["file"]
        report.section("Songs").verbatim(songs.read_text(encoding="utf-8").strip())
        where = {"lyrics": songs, **where}
    report.write(out_dir / "report.md")
    print("\n" + "\n".join(f"{name + ':':<12}{path}" for name, path in where.items()))
    if settings.source == ("demo",):
        print('next:       make lyrics ARGS=\'--source=darklyrics --artists "NAME" "NAME"\'')


def _start_server() -> None:
    """Prefect's temporary server, in a session of its own.

    A Ctrl-C in a terminal, or a SIGTERM to the process group, would end it together with us, and
    Prefect then asks a dead server for over a minute how the interrupted run ended. Prefect offers
    no setting for this, so its Popen is ours for as long as the server starts.
    """
    if PREFECT_API_URL.value():
        return  # a server that runs already
    popen = subprocess.Popen
    subprocess.Popen = partial(popen, start_new_session=True)  # type: ignore[assignment,misc]
    try:
        SubprocessASGIServer().start()  # one per process: the flow finds it
    finally:
        subprocess.Popen = popen  # type: ignore[misc]


def main(config: PipelineConfig) -> None:
    """Run the flow here and now."""
    parameters: dict[str, Any] = {
        k: list(v) if isinstance(v, tuple) else v for k, v in config.as_dict().items()
    }
    _start_server()
    lyrics_pipeline(**parameters)  # a Failed state raises its error here


if __name__ == "__main__":
    sys.exit(program(main, PipelineConfig))
