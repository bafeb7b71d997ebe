"""Train: token bins -> a run folder with checkpoints, metrics, a loss curve and a report.

    python -m backend.training.train config/lyrics_cpu.py --dataset=demo/char --out_dir=out/demo
    torchrun --standalone --nproc_per_node=8 -m backend.training.train config/train_gpt2.py

Reads data/<dataset>/. Writes out/<run>/ (ARCHITECTURE.md lists it). Ctrl-C saves and stops; the
same command with --init_from=resume goes on as if nothing had happened, bit for bit on a CPU.

Config files come first, then keys:
"""

import contextlib
import importlib.util
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from backend.config.loader import program
from backend.config.schema import TrainConfig
from backend.data.batches import IGNORE, Batch, Songs, Windows, check_size, open_batches, prefetched
from backend.data.bins import Bins
from backend.errors import CheckpointError, ConfigError, Terminated
from backend.evaluation import tasks
from backend.evaluation.baselines import baselines
from backend.evaluation.compare import read_metrics
from backend.evaluation.loss import random_loss, split_loss
from backend.models import checkpoint
from backend.models.generation import Sampling, complete
from backend.models.gpt import GPT, flops_per_token, n_params
from backend.report import Report
from backend.runtime import Runtime, detect
from backend.storage import Stage, Summary, alone, atomic_write, write_json
from backend.training import begin, estimate, optim, parallel
from backend.training.health import Health, plot_health
from backend.training.log import (
    RunLog,
    Tensorboard,
    Wandb,
    add_training,
    plot_loss,
)  # fmt: skip
from backend.training.screen import Progress, Screen, mfu, step_line
from backend.training.stopping import Stopping

VERSION = 2
# What may differ between two runs that are the same experiment.
NOT_THE_EXPERIMENT = {
    "out_dir",
    "init_from",
    "preset",  # its values count
    "checkpoint",
    "overwrite",
    "eval_only",
    "dry_run",
    "health",
    "hellaswag_samples",
    "log_interval",
    "log_to",
    "wandb_log",
    "wandb_project",
    "wandb_run_name",
    "profile",
    "threads",
    "dataset",  # its content counts, by hash
    # the same recipe is the same experiment on every machine
    "backend",
    "device",
    "dtype",
    "compile",
    "memory_gb",
    "parallel",
    "activation_checkpointing",
    "batch_size",
    "gradient_accumulation_steps",
}
NOT_FINITE = 10  # updates left out in a row, after which the run has diverged


def main(config: TrainConfig) -> Summary:
    runtime = detect(
        device=config.device, dtype=config.dtype, memory_gb=config.memory_gb,
        threads=config.threads, backend=config.backend, training=True,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(runtime.close)
        # one voice, which the run outlives
        voice = cast(Any, Screen(sys.stdout)) if runtime.is_main else None
        stack.enter_context(contextlib.redirect_stdout(voice))
        return run(config, runtime, stack)


def run(config: TrainConfig, runtime: Runtime, stack: contextlib.ExitStack) -> Summary:
    """The whole run; `stack` is closed by the caller."""
    _check_trackers(config)
    if config.hellaswag_samples:
        tasks.check("hellaswag")
    bins = Bins.open(config.dataset)
    config = begin.spelt_out(config)
    looking = config.eval_only or config.dry_run  # writes nothing
    with runtime.main_first():
        source = begin.find_source(config)  # of weights; None for fresh ones
        config = begin.with_shape_of(config, source)
        check_size(bins, config.block_size, config.batches)
        division = estimate.divide(config, runtime, bins.tokenizer.vocab_size)
        estimate.check_memory(config, division, bins.tokenizer.vocab_size, runtime)
        tokens_per_step = division.sequences * config.block_size
        experiment = {k: v for k, v in config.as_dict().items() if k not in NOT_THE_EXPERIMENT}
        experiment["tokens_per_step"] = tokens_per_step
        experiment["attn_scale"] = config.resolved().attn_scale
        out_dir = Path(config.out_dir)
        base = [] if config.base is None else checkpoint.find(config.base, config.checkpoint).files
        inputs = [*bins.files(), *base]
        stage = Stage("train", VERSION, out_dir, settings=experiment, inputs=inputs)
        if config.init_from == "auto" and not looking and (same := stage.unchanged()):
            print(same.line())
            return same
        with alone(out_dir) if runtime.is_main and not looking else contextlib.nullcontext():
            source = begin.check(config, experiment, bins, source)
        standing = checkpoint.steps(out_dir)
    resumed = begin.resumes(config, source)
    batches = open_batches(
        config.batches, bins, seed=config.seed, block_size=config.block_size,
        document_mask=config.document_mask,
    )  # fmt: skip

    torch.manual_seed(config.seed)
    model = begin.build(config, bins, source, resumed=resumed)
    if config.eval_only:
        return _evaluate_only(config, model.to(runtime.device), bins, runtime, division)
    model.train()
    if config.activation_checkpointing:
        parallel.checkpointing(model)
    how = parallel.strategy(config.parallel, runtime)
    wrapped = parallel.wrap(model, how, runtime)
    optimizers = optim.build(model, config)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    step, loss_sum, loss_n = 0, 0.0, 0
    rows_done, tokens_done = 0, 0  # of the data; counted, since a resume may bring another step
    stale, skipped, skipped_in_a_row = 0, 0, 0
    best: checkpoint.Best | None = None
    evaluate_again = False
    if source and resumed:
        values = _restore(source, model, optimizers, scaler)
        step, loss_sum, loss_n = values["step"], values["loss_sum"], values["loss_n"]
        before = optim.sequences_before(division.sequences, config.batch_warmup_iters, step)
        rows_done = values.get("rows", before)
        tokens_done = values.get("tokens", rows_done * config.block_size)
        stale, skipped = values.get("stale", 0), values.get("skipped", 0)
        best = values["best"] and checkpoint.Best(**values["best"])
        # the end of a run that goes on longer was evaluated, and may be the best there will be
        evaluated = (r["step"] for r in read_metrics(out_dir) if r["split"] == "val")
        evaluate_again = step in evaluated

    print(estimate.banner(config, runtime, bins, model, division, how, step), flush=True)
    compiled = torch.compile(wrapped) if _compiles(config, runtime) else None

    def backward(call: Callable[..., Any], batch: Batch, of: int, *, last: bool) -> torch.Tensor:
        """One micro-batch: gradients, and its part in the mean loss over the step's `of` real
        tokens."""
        weight = int((batch.y != IGNORE).sum()) / of
        x, y, documents = (
            None if t is None else t.to(runtime.device, non_blocking=True) for t in batch
        )
        with parallel.accumulating(wrapped, last=last):
            with runtime.autocast():
                loss = call(x, y, documents=documents)[1]
            # DDP and FSDP take the mean over the processes, and this is a sum
            scaler.scale(loss * (weight * runtime.world_size)).backward()
        part: torch.Tensor = loss.detach() * weight
        return part

    with _told_when_out_of_memory(config, division, model, runtime):
        first = batches.take(0, done=0, of=division.sequences, rows=range(division.batch_size))
        call, seconds = estimate.rehearse(
            lambda call: backward(call, first, config.block_size, last=True), wrapped, compiled
        )
        model.zero_grad(set_to_none=True)
    print(estimate.forecast(config, division, model, seconds, step), flush=True)
    by_heart = estimate.advice(config, bins, model, division)
    for note in (*([] if resumed else begin.advise(source, bins)), *([by_heart] * bool(by_heart))):
        print(f"note: {note}", flush=True)
    if config.dry_run:
        print(f"one batch, x above y:\n{estimate.excerpt(first, bins)}")
        return Summary("train", out_dir, {"parameters": n_params(model)})

    with runtime.main_first():  # the others read what it counted; before anything is deleted
        floor = baselines(bins)
    if runtime.is_main:
        out_dir.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone(out_dir))
        if checkpoint.steps(out_dir) != standing:
            raise CheckpointError(
                f"another program trained in {out_dir} meanwhile", mend="look, and start again"
            )
        if resumed:
            checkpoint.set_aside(out_dir, after=step)
        else:
            begin.empty_folder(config, out_dir)
        if config.lora_rank and source and not resumed:
            checkpoint.save_base(out_dir, source, model)
        shutil.copyfile(bins.folder / "tokenizer.json", out_dir / "tokenizer.json")
        write_json(out_dir / "config.json", config.as_dict() | {"origins": dict(config.origins)})
    origin = begin.origin(source, resumed=resumed)
    flops = flops_per_token(model)
    health = Health(runtime.sum if how == "fsdp" else None) if config.health else None
    clipped = 0
    chance = math.log(bins.tokenizer.vocab_size)
    chars_per_token = bins.train.chars / len(bins.train.tokens)

    saved_at = step if resumed else -1
    evaluated_at, before_it = -1, dict[str, Any]()

    def changing() -> dict[str, Any]:
        """What an evaluation changes."""
        return dict(
            loss_sum=loss_sum, loss_n=loss_n, stale=stale, best=asdict(best) if best else None
        )

    def save() -> None:
        nonlocal saved_at
        if saved_at == step:
            return
        tensors = parallel.gathered(optim.state_tensors(model, optimizers), runtime)
        weights = parallel.gathered(model.weights(), runtime)
        if runtime.is_main:
            values = {
                "scaler": scaler.state_dict(),
                "rows": rows_done,
                "tokens": tokens_done,
                "skipped": skipped,
                # whoever resumes here evaluates here, and does it once, not once more
                **(before_it if evaluated_at == step else changing()),
            }
            facts = {
                "data_sha256": bins.sha256,
                "data": bins.summary(),
                **origin,
                "experiment": experiment,
            }
            checkpoint.save(
                out_dir, model, step=step, run=facts, trainer=(tensors, values), best=best,
                weights=weights,
            )  # fmt: skip
        saved_at = step

    stopping = stack.enter_context(
        Stopping(together=runtime.world_size > 1, quiet=not runtime.is_main)
    )

    def leave_if_asked() -> None:
        """Together: whichever process was told. A signal that came while Python could not raise
        it (in a finalizer, for one) is noticed here too."""
        if runtime.any(stopping.asked is not None):
            raise stopping.asked or Terminated

    log = None
    if runtime.is_main:
        resumed_at = step if resumed else None
        log = RunLog(out_dir, resumed_at=resumed_at, trackers=_trackers(config, out_dir, step))
        stack.enter_context(log).note(device=runtime.shown())
    progress = stack.enter_context(
        Progress(
            config.max_iters, step=step, quiet=not log,
            when_lost=log.lost_screen if log else lambda: None,
        )
    )  # fmt: skip
    stack.enter_context(_told_when_out_of_memory(config, division, model, runtime))
    feed = prefetched(_feed(config, batches, division, runtime, step, rows_done))
    parameters = [p for p in model.parameters() if p.requires_grad]
    clock, since, tokens_since = time.monotonic(), step, 0
    try:
        while True:
            # evaluate the whole validation split; save first, so that nothing here can cost a run
            finished = step >= config.max_iters
            if step % config.eval_interval == 0 or finished or evaluate_again:
                evaluate_again = False
                evaluated_at, before_it = step, changing()
                if config.always_save_checkpoint or finished:  # finished: by its number of steps
                    with stopping.held():
                        save()
                val = split_loss(model, bins.val, runtime, between=leave_if_asked)
                mean = loss_sum / loss_n if loss_n else None
                if config.eval_iters:
                    mean = _random_loss(config, model, bins, runtime, step, division.batch_size)
                    leave_if_asked()
                if not math.isfinite(val.loss):
                    raise _diverged(config, "validation loss", val.loss, step, best)
                with stopping.held():
                    improved = best is None or val.bpc < best.bpc
                    stale = 0 if improved else stale + 1
                    finished = finished or 0 < config.patience <= stale
                    if improved:
                        best = checkpoint.Best(step, val.bpc)
                    if improved or finished:  # it stands already, unless saving is for these alone
                        save()
                    if log:
                        checkpoint.write_index(out_dir, best)
                        log.row(
                            step=step, epoch=_epoch(tokens_done, bins), split="val",
                            loss=val.loss, bpc=val.bpc, train_loss=mean,
                        )  # fmt: skip
                    loss_sum, loss_n = 0.0, 0
                if config.hellaswag_samples:
                    asked = tasks.hellaswag(
                        model, bins.tokenizer, runtime, most=config.hellaswag_samples,
                        between=leave_if_asked,
                    )  # fmt: skip
                    if log:
                        log.row(
                            step=step, epoch=_epoch(tokens_done, bins), split="hellaswag", **asked
                        )
                    progress.say(
                        f"step {step:>6}  HellaSwag {asked['acc_norm']:.4f} of {asked['n']:,} "
                        f"(acc {asked['acc']:.4f}); chance is 0.25"
                    )
                mark = "  (best)" if improved else ""
                progress.say(
                    f"step {step:>6}  validation {val.loss:.4f} nats/token, {val.bpc:.4f} "
                    f"bits/char{mark}"
                )
                _say_what_lay_outside(model, progress)
                _show_sample(config, model, bins, out_dir if log else None, step, progress)
                clock, since, tokens_since = time.monotonic(), step, 0  # no training time
            if finished:
                break

            # the gradients of one step, from micro-batches
            rate = optim.set_learning_rates(optimizers, config, step)
            of = _sequences(config, division, step)
            place, done = _place(config, step, rows_done)
            targets = batches.targets(place, done=done, of=of)
            parts = torch.zeros((), device=runtime.device)
            micro = division.rows(runtime.rank, of)
            for rows in micro:
                # what dropout drops depends on seed, step and row: not on the machine, the number
                # of processes or an interruption, so that no state of it is ever stored
                _reseed(_draw(config.seed, step, rows.start), runtime.device)
                parts += backward(call, next(feed), targets, last=rows is micro[-1])
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            logs = (step + 1) % config.log_interval == 0
            if health and logs:
                health.before(model)
            norm = parallel.clip(parameters, config.grad_clip or math.inf)
            loss, grad_norm = torch.stack([runtime.sum(parts), norm.to(parts)]).tolist()
            if step == 0 and not source and abs(loss - chance) > max(1.0, 0.2 * chance):
                progress.say(
                    f"note: the first loss is {loss:.2f}, and pure chance gives {chance:.2f}: "
                    "init or zero_init may not suit this shape"
                )

            # the update, unless it would do harm
            with stopping.held():
                finite = math.isfinite(loss) and math.isfinite(grad_norm)
                clipped += 0 < config.grad_clip < grad_norm
                if finite:
                    for optimizer in optimizers:
                        scaler.step(optimizer)
                    loss_sum, loss_n, skipped_in_a_row = loss_sum + loss, loss_n + 1, 0
                else:
                    skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
                scaler.update()
                step += 1
                rows_done, tokens_done = rows_done + of, tokens_done + targets
                tokens_since += of * config.block_size
                if log and (logs or not finite):
                    now = time.monotonic()
                    seconds = (now - clock) / (step - since)
                    speed = tokens_since / (now - clock)
                    clock, since, tokens_since = now, step, 0
                    facts: dict[str, Any] = dict(
                        step=step, epoch=_epoch(tokens_done, bins), loss=loss, lr=rate,
                        grad_norm=grad_norm, tokens_per_s=round(speed),
                        mfu=_mfu(flops * speed / runtime.world_size, runtime),
                    )  # fmt: skip
                    log.row(**facts, split="train", seconds=round(seconds, 4))
                    left = (config.max_iters - step) * seconds
                    line = step_line(
                        **facts, max_iters=config.max_iters, chars_per_token=chars_per_token,
                        seconds_left=left,
                    )  # fmt: skip
                    progress.line(step, line)
                if health and logs:
                    measured = health.after(model, step=step, clipped=clipped)
                    clipped = 0
                    if log:
                        log.health(measured)
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)
                if not finite:
                    progress.say(
                        f"note: step {step}: loss {loss}, gradient norm {grad_norm}: the weights "
                        f"stay as they were, {skipped} time{'s' * (skipped > 1)} so far"
                    )
                    if log:
                        log.note(updates_left_out=str(skipped))
                if log:
                    log.beat(step)
            if skipped_in_a_row >= NOT_FINITE:
                what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient", grad_norm)
                raise _diverged(config, what, value, step, best)
            leave_if_asked()
    except (KeyboardInterrupt, Terminated):
        if stopping.hurried:  # an update may be half made
            kept = f"step {saved_at} is saved" if saved_at >= 0 else "nothing is saved"
            progress.say(f"stopped at once, at step {step}; {kept}")
            raise
        save()
        if log:
            plot_loss(out_dir, floor)
        progress.say(
            f"stopped at step {step}, saved; go on with --init_from=resume --out_dir={out_dir}"
        )
        raise
    finally:
        feed.close()

    counts = {
        "steps": step,
        "bits per character at best": f"{best.bpc:.3f}" if best else "unknown",
        "parameters": n_params(model),
    }
    if skipped:
        counts["updates left out"] = skipped
    if step < config.max_iters:
        counts["stopped early"] = f"no better for {stale} evaluations"
    if not log:
        return Summary("train", out_dir, counts)
    plot_loss(out_dir, floor)
    if health:
        plot_health(out_dir)
    report = Report(f"Run {out_dir.name}").table(
        ["setting", "value"], [[k, str(v)] for k, v in config.as_dict().items()]
    )
    add_training(report, out_dir, floor).write(out_dir / "report.md")
    chosen = checkpoint.find(out_dir, "best")
    summary = stage.finish(
        [*chosen.files, out_dir / "tokenizer.json", out_dir / "loss.png"], counts
    )
    progress.say(summary.line())
    return summary


def _restore(
    source: checkpoint.Source,
    model: GPT,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
) -> dict[str, Any]:
    """Optimizers and scaler as they were saved; the numbers that the loop goes on from. A function
    of its own, since as long as the tensors are held, so is their file, and its room on the disk.
    """
    tensors, values = checkpoint.load_trainer(source)
    optim.load_state(model, optimizers, tensors)
    if values["scaler"]:  # empty where the earlier machine needed none
        scaler.load_state_dict(values["scaler"])
    return values


def _evaluate_only(
    config: TrainConfig, model: GPT, bins: Bins, runtime: Runtime, division: estimate.Division
) -> Summary:
    val = split_loss(model, bins.val, runtime)
    print(
        f"validation {val.loss:.4f} nats/token, {val.bpc:.4f} bits/char "
        f"({bins.val.songs} songs, {val.chars:,} characters)"
    )
    counts = {"bits per character": f"{val.bpc:.4f}"}
    if config.eval_iters:
        loss = _random_loss(config, model, bins, runtime, 0, division.batch_size)
        print(
            f"training   {loss:.4f} nats/token, on {config.eval_iters} random batches of "
            f"{division.batch_size} x {config.block_size} tokens"
        )
        counts["training loss"] = f"{loss:.4f}"
    return Summary("train", Path(config.out_dir), counts)


def _sequences(config: TrainConfig, division: estimate.Division, step: int) -> int:
    """Of this step, over all processes."""
    warmup = 0 if config.overfit_one_batch else config.batch_warmup_iters
    return optim.sequences(division.sequences, warmup, step)


def _place(config: TrainConfig, step: int, done: int) -> tuple[int, int]:
    """Which step's batch is learnt from, and the rows before it: the first one's again and again,
    where that is asked for."""
    return (0, 0) if config.overfit_one_batch else (step, done)


def _feed(
    config: TrainConfig,
    batches: Windows | Songs,
    division: estimate.Division,
    runtime: Runtime,
    step: int,
    done: int,
) -> Iterator[Batch]:
    """This process' micro-batches from `step` on, before which the run took `done` rows."""
    for s in range(step, config.max_iters):
        of = _sequences(config, division, s)
        place, begun = _place(config, s, done)
        for rows in division.rows(runtime.rank, of):
            yield batches.take(place, done=begun, of=of, rows=rows)
        done += of


def _diverged(
    config: TrainConfig, what: str, value: float, step: int, best: checkpoint.Best | None
) -> ConfigError:
    kept = f"; step {best.step}, the best, is kept" if best else ""
    return ConfigError(
        f"the {what} became {value} at step {step}",
        why=f"training diverged{kept}",
        mend=f"--learning_rate={config.learning_rate / 3:.1e} or a longer warm-up, in another "
        "--out_dir or with --overwrite; --dtype=float32 if it was float16",
    )


@contextlib.contextmanager
def _told_when_out_of_memory(
    config: TrainConfig, division: estimate.Division, model: GPT, runtime: Runtime
) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if estimate.is_out_of_memory(error):
            raise estimate.out_of_memory(config, division, model.vocab_size, runtime) from error
        raise


def _compiles(config: TrainConfig, runtime: Runtime) -> bool:
    return runtime.device.type == "cuda" if config.compile == "auto" else config.compile


def _random_loss(
    config: TrainConfig,
    model: GPT,
    bins: Bins,
    runtime: Runtime,
    step: int,
    batch_size: int,
) -> float:
    """nanoGPT's estimate of the training loss, on random batches of the kind that is trained on."""
    draw = open_batches(
        config.batches, bins, seed=_draw(config.seed + 1, step), block_size=config.block_size,
        document_mask=config.document_mask,
    )  # fmt: skip
    return random_loss(model, draw, runtime, iters=config.eval_iters, batch_size=batch_size)


def _draw(*numbers: int) -> int:
    """A seed that depends on all of these."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _reseed(seed: int, device: torch.device) -> None:
    """torch.manual_seed, which without a GPU writes down the whole call stack for each kind of GPU
    that there might be: 0.4 ms of a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _show_sample(
    config: TrainConfig, model: GPT, bins: Bins, out_dir: Path | None, step: int, progress: Progress
) -> None:
    """A few lines as the model writes them now, on screen and in samples/."""
    if not config.sample_chars:
        return
    tokenizer = bins.tokenizer
    [(ids, _)] = complete(
        model,
        [tokenizer.eot],
        Sampling(temperature=0.8, never=tokenizer.never_sampled()),
        eot=tokenizer.eot,
        seeds=[config.seed],
        max_new_tokens=config.sample_chars,
    )
    text = tokenizer.decode(ids)
    if out_dir:
        with atomic_write(out_dir / "samples" / f"step_{step:08d}.txt") as file:
            file.write(text + "\n")
    progress.say("\n".join(f"    | {line}" for line in text.splitlines()[:8]))


def _say_what_lay_outside(model: GPT, progress: Progress) -> None:
    below, scores = model.outside()
    if below:
        progress.say(
            f"note: {below / scores:.1e} of the scores so far lay outside the domain "
            f"of {model.config.attn_type} and were clamped; more squarings widen it"
        )


def _epoch(tokens: int, bins: Bins) -> float:
    """Passes over the training tokens so far."""
    return round(tokens / len(bins.train.tokens), 4)


def _mfu(flops_per_s: float, runtime: Runtime) -> float | None:
    """Share of the device's peak in half precision; None where the peak is not known."""
    if runtime.device.type != "cuda" or runtime.dtype == torch.float32:
        return None
    return mfu(flops_per_s, torch.cuda.get_device_name(runtime.device))


def _check_trackers(config: TrainConfig) -> None:
    """Before anything is deleted for the run, and in every process alike."""
    for name in _wanted(config):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"log_to={name} needs the package {name}", mend=f"pip install -e .[{name}]"
            )


def _wanted(config: TrainConfig) -> list[str]:
    return sorted({*config.log_to, *["wandb"] * config.wandb_log})


def _trackers(config: TrainConfig, out_dir: Path, step: int) -> list[Any]:
    """Where the rows go besides metrics.jsonl."""
    chosen: list[Any] = []
    if "wandb" in _wanted(config):
        name = config.wandb_run_name or out_dir.name
        chosen.append(Wandb(config.wandb_project, name, config.as_dict()))
    if "tensorboard" in config.log_to:
        chosen.append(Tensorboard(out_dir, resumed_at=step))
    return chosen


if __name__ == "__main__":
    sys.exit(program(main, TrainConfig))
