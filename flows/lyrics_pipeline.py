"""The flow: crawl -> clean -> binarize -> train -> evaluate -> sample, and a report.

    python -m flows.lyrics_pipeline
    python -m flows.lyrics_pipeline --source=darklyrics --artists "Opeth" "At the Gates"

Takes the Prefect server that runs, else a temporary one that stops with it; nothing has to be
started before. Writes data/<dataset>/ and out/<run>/. A second run does only what changed.
"""

import inspect
import json
import logging
import os
import platform
import shlex
import sys
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import deployment
from prefect.runtime import flow_run as now
from prefect.states import Completed, Failed

from backend.config.loader import field_docs, fields_of, from_values, program
from backend.config.schema import PipelineConfig
from backend.errors import ConfigError, UserError
from backend.report import Report
from backend.storage import Summary
from backend.training.log import add_training
from flows import NAME, artifacts, server, stages


def keys_of_the_schema(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a function of keywords the keys of PipelineConfig as its parameters, with their types,
    choices, defaults and meanings, which Prefect reads to check them and to make a form."""
    hints, defaults = fields_of(PipelineConfig), PipelineConfig().as_dict()
    parameters = []
    for key, hint in hints.items():
        default = defaults[key]
        if typing.get_origin(hint) is tuple:  # JSON has lists
            hint, default = list[typing.get_args(hint)[0]], list(default)  # type: ignore[misc]
        parameters.append(
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        )
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    meanings = (f"    {key}: {text}" for key, text in field_docs(PipelineConfig).items())
    function.__doc__ = "\n".join([f"{function.__doc__}\n", "Args:", *meanings])
    return function


def run_name() -> str:
    """`{profile}-{dataset}-{run}`."""
    try:
        config = from_values(PipelineConfig, now.parameters)
    except ConfigError:
        return NAME  # the flow itself says what is wrong
    return f"{config.profile}-{stages.data_dir(config).name}-{stages.out_dir(config).name}"


def say_how_to_continue(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A crash, a kill -9 or a cancellation: nothing is lost, and this is the command."""
    try:
        config = from_values(PipelineConfig, flow_run.parameters)
    except ConfigError:
        return
    command = again(config, deployed=flow_run.deployment_id is not None)
    text = f"{state.name}; what was finished is kept; go on with: {command}"
    flow_run_logger(flow_run).warning(text)
    if flow_run.deployment_id is None:
        print(text, flush=True)


@flow(
    name=NAME,
    description="Songs in the manner of the artists you love.",
    flow_run_name=run_name,
    validate_parameters=False,  # the schema does, and says everything at once
    on_crashed=[say_how_to_continue],
    on_cancellation=[say_how_to_continue],
)
@keys_of_the_schema
def lyrics_pipeline(**parameters: Any) -> State[Any]:
    """Songs in the manner of the artists you love."""
    deployed = deployment.id is not None
    _quiet(logging.WARNING)
    try:
        config = from_values(PipelineConfig, parameters)
        stages.check(config)
    except UserError as error:
        return _failed(error)
    _sign(config)
    command = again(config, deployed=deployed)
    summaries: list[Summary] = []
    try:
        with one_at_a_time(stages.data_dir(config)):
            for name in stages.STAGES:
                if name not in config.stages:
                    continue
                ended = stages.stage.with_options(name=name)(name, config, return_state=True)
                result = ended.result(raise_on_failure=False)
                if isinstance(result, UserError):
                    mend = f"{result.mend}\n        then " if result.mend else ""
                    return _failed(UserError(f"{name}: {result.what}", result.why, mend + command))
                # raises what was a bug, with its traceback
                summaries.append(cast(Summary, ended.result()))
            _close(config, summaries)
    except OSError as error:
        return _failed(stages.of_the_disk(error))
    if missing := incomplete(summaries):
        print(f"incomplete: {missing}; go on with:\n  {command}", flush=True)
        message = f"{missing}; go on with: {command}"
        return Completed(name="Incomplete", message=message, data=summaries)
    return Completed(message="all stages are done", data=summaries)


def _failed(error: UserError) -> State[Any]:
    if deployment.id is not None:  # else the program says it
        print(f"error: {error}", flush=True)
    return Failed(message=str(error), data=error)


def incomplete(summaries: Sequence[Summary]) -> str | None:
    """What the sites did not give, in words; None where the crawl has everything."""
    crawl = next((s for s in summaries if s.stage == "crawl" and not s.skipped), None)
    if crawl is None or not (crawl.notes or crawl.counts.get("failed")):
        return None
    report = crawl.folder / "crawl.json"
    rows = json.loads(report.read_text(encoding="utf-8"))["artists"] if report.is_file() else []
    n = sum(1 for row in rows if row["failed"])
    return "; ".join([*[f"{n} of {len(rows)} artists incomplete"] * bool(n), *crawl.notes])


def again(config: PipelineConfig, *, deployed: bool) -> str:
    """The command that continues a run. Without --force, which would begin anew."""
    defaults = PipelineConfig(profile=config.profile)
    values = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.as_dict().items()
        if value != getattr(defaults, key) and key != "force"
    }
    if deployed:
        name = {"auto": "default"}.get(config.profile, config.profile.replace("_", "-"))
        words = ["prefect", "deployment", "run", f"{NAME}/{name}"]
        for key, value in values.items():
            words += ["-p", f"{key}={_as_prefect_reads(value)}"]
    else:
        words = ["python", "-m", "flows.lyrics_pipeline"]
        for key, value in ({"profile": config.profile} | values).items():
            if value == "auto":
                continue
            words += [f"--{key}", *value] if isinstance(value, list) else [f"--{key}={value}"]
    return shlex.join(words)


def _quiet(level: int) -> None:
    """Prefect's lines on the screen, not those in the log of the run: the stages speak for
    themselves, and are not to be read twice."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(max(handler.level, level))


def _as_prefect_reads(value: Any) -> str:
    """JSON; a text stays bare where it is none, which a title like 1989 is."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Of two runs on one corpus the second waits, wherever each was started on this machine."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".flow.lock").open("w", encoding="utf-8") as file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    waiting = True
                    text = f"another run works on {folder}; this one waits for it"
                    print(text, flush=True)
                    get_run_logger().info(text)
                time.sleep(1)
        yield  # a lock of the system's: it ends with us, however we end


def _sign(config: PipelineConfig) -> None:
    """In the server's book: tags, so that the UI finds all runs of a profile, a corpus or a run
    folder, and which process of which machine this is, so that its death can be told. A worker says
    that itself, in words that it stops the run by."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    run = context.flow_run
    tags = {config.profile, stages.data_dir(config).name, stages.out_dir(config).name}
    of_worker = run.work_queue_name is not None
    process = None if of_worker else f"{platform.node()}:{os.getpid()}"
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(
                run.id, tags=sorted(tags.union(run.tags)), infrastructure_pid=process
            )
    except artifacts.GONE as error:
        get_run_logger().warning("the run is not signed: %s", error)


def _close(config: PipelineConfig, summaries: Sequence[Summary]) -> None:
    """The report, and what is where."""
    out_dir = stages.out_dir(config)
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
    if (out_dir / "evaluation.md").is_file():
        where["evaluation"] = out_dir / "evaluation.md"
    if lyrics:
        songs = lyrics.folder / lyrics.counts["file"]
        artifacts.add_lyrics(report, songs.with_suffix(".jsonl"))
        where = {"lyrics": songs, **where}
    report.write(out_dir / "report.md")
    print("\n" + "\n".join(f"{name + ':':<12}{path}" for name, path in where.items()))
    if config.source == ("demo",) and deployment.id is None:
        print(
            "next:       python -m backend.training.sample --artist=Gravenwick --title=Tide "
            f"--out_dir={out_dir}\n"
            'your own:   make lyrics ARGS=\'--source=darklyrics --artists "NAME" "NAME"\'\n'
            "            make lyrics ARGS='--source=files --path=FOLDER'"
        )


# --- here and now ---------------------------------------------------------------------------------


def main(config: PipelineConfig) -> None:
    """Run the flow here and now."""
    parameters: dict[str, Any] = {
        k: list(v) if isinstance(v, tuple) else v for k, v in config.as_dict().items()
    }
    _quiet(logging.CRITICAL)
    server.at_hand()
    lyrics_pipeline(**parameters)  # a Failed state raises its error here


if __name__ == "__main__":
    sys.exit(program(main, PipelineConfig))
