"""Train: token bins -> a run folder with checkpoints, metrics, a loss curve and a report.

    python -m backend.training.train config/lyrics_cpu.py --dataset=demo/char --out_dir=out/demo

Reads data/<dataset>/. Writes out/<run>/ (ARCHITECTURE.md lists it). Ctrl-C saves and stops; the
same command with --init_from=resume goes on as if nothing had happened, bit for bit on a CPU.

Config files come first, then keys:
"""

import itertools
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from backend.config.loader import program
from backend.config.schema import ModelConfig, TrainConfig
from backend.data.batches import check_size, random_windows
from backend.data.bins import Bins
from backend.errors import ConfigError, Terminated
from backend.evaluation.loss import split_loss
from backend.models import checkpoint, lora
from backend.models.generation import complete
from backend.models.gpt import GPT, flops_per_token, n_params, on_meta, training_gb
from backend.report import Report
from backend.runtime import Runtime, detect
from backend.storage import Stage, Summary, atomic_write, write_json
from backend.training import begin
from backend.training.log import RunLog, Wandb, add_training, plot_loss
from backend.training.optim import adamw, learning_rate, load_optimizer_tensors, optimizer_tensors

VERSION = 1
# What may differ between two runs that are the same experiment.
NOT_THE_EXPERIMENT = {
    "out_dir",
    "init_from",
    "preset",  # its values count
    "checkpoint",
    "overwrite",
    "eval_only",
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
    "batch_size",
    "gradient_accumulation_steps",
}
# Peak dense bf16 TFLOP/s of NVIDIA's data sheets. An unknown device shows no MFU, not a wrong one.
PEAK_TFLOPS = {"A100": 312, "H100 80GB HBM3": 989, "H200": 989}


def main(config: TrainConfig) -> Summary:
    runtime = detect(
        device=config.device, dtype=config.dtype, memory_gb=config.memory_gb, threads=config.threads
    )
    bins = Bins.open(config.dataset)
    config = begin.spelt_out(config)
    source = begin.find_source(config)  # of weights; None for fresh ones
    config = begin.with_shape_of(config, source)
    check_size(bins, config.block_size)
    out_dir = Path(config.out_dir)
    batch_size, accumulation = _batch(config, runtime, bins.tokenizer.vocab_size)
    tokens_per_step = batch_size * accumulation * config.block_size
    experiment = {k: v for k, v in config.as_dict().items() if k not in NOT_THE_EXPERIMENT}
    experiment["tokens_per_step"] = tokens_per_step
    experiment["attn_scale"] = config.resolved().attn_scale
    stage = Stage("train", VERSION, out_dir, settings=experiment, inputs=bins.files())
    if config.init_from == "auto" and not config.eval_only and (done := stage.unchanged()):
        print(done.line())
        return done
    source = begin.check(config, experiment, bins, source)
    resumed = source is not None and config.init_from in ("resume", "auto")

    torch.manual_seed(config.seed)
    model = begin.build(config, bins, source, resumed=resumed).to(runtime.device)
    model.train()
    optimizer = adamw(model, config)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    step, loss_sum, loss_n = 0, 0.0, 0
    origin = begin.origin(source, resumed=resumed)
    best: checkpoint.Best | None = None
    if config.eval_only:
        val = split_loss(model, bins.val, runtime)
        print(
            f"validation {val.loss:.4f} nats/token, {val.bpc:.4f} bits/char "
            f"({bins.val.songs} songs, {val.chars:,} characters)"
        )
        return Summary("train", out_dir, {"bits per character": f"{val.bpc:.4f}"})
    if source and resumed:
        tensors, values = checkpoint.load_trainer(source)
        load_optimizer_tensors(model, optimizer, tensors)
        if values["scaler"]:  # empty where the earlier machine needed none
            scaler.load_state_dict(values["scaler"])
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and runtime.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], runtime.device)
        step, loss_sum, loss_n = values["step"], values["loss_sum"], values["loss_n"]
        best = values["best"] and checkpoint.Best(**values["best"])
    else:
        begin.empty_folder(config, out_dir)
        if config.lora_rank and source:
            checkpoint.save_base(out_dir, source, model)
    shutil.copyfile(bins.folder / "tokenizer.json", out_dir / "tokenizer.json")
    write_json(out_dir / "config.json", config.as_dict() | {"origins": dict(config.origins)})
    compiled: Any = torch.compile(model) if _compiles(config, runtime) else model
    _banner(config, runtime, bins, model, batch_size, accumulation, step)

    trackers = []
    if config.wandb_log or "wandb" in config.log_to:
        trackers = [
            Wandb(config.wandb_project, config.wandb_run_name or out_dir.name, config.as_dict())
        ]
    flops = flops_per_token(model) * tokens_per_step

    def save() -> None:
        tensors = optimizer_tensors(model, optimizer) | {"rng.cpu": torch.get_rng_state()}
        if runtime.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(runtime.device)
        values = {
            "scaler": scaler.state_dict(),
            "loss_sum": loss_sum,
            "loss_n": loss_n,
        }
        checkpoint.save(
            out_dir,
            model,
            step=step,
            trainer=(tensors, values),
            best=best,
            run={
                "data_sha256": bins.sha256,
                "data": bins.summary(),
                **origin,
                "experiment": experiment,
            },
        )

    with (
        _stop_signals() as stopping,
        RunLog(out_dir, resumed_at=step if resumed else None, trackers=trackers) as log,
    ):
        clock, since = time.monotonic(), step
        while True:
            # evaluate the whole validation split; save first, so that nothing here can cost a run
            finished = step >= config.max_iters
            if step % config.eval_interval == 0 or finished:
                if config.always_save_checkpoint or finished:
                    save()
                val = split_loss(model, bins.val, runtime)
                mean = loss_sum / loss_n if loss_n else None
                if config.eval_iters:
                    mean = _random_loss(config, model, bins, runtime, step, batch_size)
                log.row(
                    step=step,
                    epoch=_epoch(step, tokens_per_step, bins),
                    split="val",
                    loss=val.loss,
                    bpc=val.bpc,
                    train_loss=mean,
                )
                if not math.isfinite(val.loss):
                    raise _diverged(config, "validation loss", val.loss, step, best)
                improved = best is None or val.bpc < best.bpc
                mark = "  (best)" if improved else ""
                print(
                    f"step {step:>6}  validation {val.loss:.4f} nats/token, {val.bpc:.4f} "
                    f"bits/char{mark}",
                    flush=True,
                )
                below, scores = model.outside()
                if below:
                    print(
                        f"note: {below / scores:.1e} of the scores so far lay outside the domain "
                        f"of {model.config.attn_type} and were clamped; more squarings widen it",
                        flush=True,
                    )
                if improved:
                    best = checkpoint.Best(step, val.bpc)
                    if not config.always_save_checkpoint:
                        save()
                    checkpoint.write_index(out_dir, best)
                loss_sum, loss_n = 0.0, 0
                _show_sample(config, model, bins, out_dir, step)
                clock, since = time.monotonic(), step  # evaluation is not training time
            if finished:
                break

            # one optimizer step of `accumulation` micro-batches
            lr = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            step_loss = torch.zeros((), device=runtime.device)
            for micro in range(accumulation):
                x, y = random_windows(
                    bins.train,
                    seed=config.seed,
                    step=step,
                    micro=micro,
                    batch_size=batch_size,
                    block_size=config.block_size,
                )
                with runtime.autocast():
                    _, loss = compiled(x.to(runtime.device), y.to(runtime.device))
                scaler.scale(loss / accumulation).backward()
                step_loss += loss.detach() / accumulation
            mean_loss = step_loss.item()
            if not math.isfinite(mean_loss):  # before it gets into the weights
                raise _diverged(config, "loss", mean_loss, step, best)
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            step += 1

            # log
            loss_sum, loss_n = loss_sum + mean_loss, loss_n + 1
            if step % config.log_interval == 0:
                seconds = (time.monotonic() - clock) / (step - since)
                clock, since = time.monotonic(), step
                rate = tokens_per_step / seconds
                log.row(
                    step=step,
                    epoch=_epoch(step, tokens_per_step, bins),
                    split="train",
                    loss=mean_loss,
                    lr=lr,
                    grad_norm=norm.item(),
                    tokens_per_s=round(rate),
                    mfu=_mfu(flops / seconds, runtime),
                    seconds=round(seconds, 4),
                )
                left = (config.max_iters - step) * seconds
                print(
                    f"step {step:>6}/{config.max_iters}  loss {mean_loss:.4f}  lr {lr:.2e}  "
                    f"norm {norm.item():.2f}  {rate:,.0f} tokens/s  {_clock(left)} left",
                    flush=True,
                )
            log.beat(step)
            if stopping:
                save()
                plot_loss(out_dir)
                print(
                    f"stopped at step {step}, saved; go on with --init_from=resume "
                    f"--out_dir={out_dir}",
                    flush=True,
                )
                raise stopping[0]

    plot_loss(out_dir)
    report = Report(f"Run {out_dir.name}").table(
        ["setting", "value"], [[k, str(v)] for k, v in config.as_dict().items()]
    )
    add_training(report, out_dir).write(out_dir / "report.md")
    kept = checkpoint.find(out_dir, "best")
    counts = {
        "steps": step,
        "bits per character at best": f"{best.bpc:.3f}" if best else "unknown",
        "parameters": n_params(model),
    }
    summary = stage.finish(
        [*kept.files, out_dir / "tokenizer.json", out_dir / "loss.png"],
        counts,
    )
    print(summary.line())
    return summary


def _batch(config: TrainConfig, runtime: Runtime, vocab_size: int) -> tuple[int, int]:
    """(sequences per micro-batch, micro-batches per step) whose product is the recipe's step."""
    per_step, asked = config.tokens_per_step, config.gradient_accumulation_steps
    T = config.block_size
    if per_step is None:
        assert isinstance(config.batch_size, int) and asked is not None  # problems() saw to it
        return config.batch_size, asked
    if per_step % T:
        raise ConfigError(
            f"tokens_per_step = {per_step:,} is not a multiple of block_size = {T}",
            mend=f"--tokens_per_step={max(1, per_step // T) * T}",
        )
    sequences = per_step // T
    if config.batch_size == "auto":
        room = 0.85 * runtime.memory_gb
        model = on_meta(config.part(ModelConfig), vocab_size)
        if config.lora_rank:
            lora.add(model, config.lora_rank, 1.0)
        fits = [
            2**i
            for i in range(sequences.bit_length())
            if sequences % 2**i == 0 and training_gb(model, 2**i) <= room
        ]
        batch_size = sequences // asked if asked else max(fits, default=1)
    else:
        batch_size = config.batch_size
    accumulation = asked or max(1, sequences // batch_size)
    if batch_size * accumulation != sequences:
        raise ConfigError(
            f"batch_size {batch_size} x block_size {T} x gradient_accumulation_steps "
            f"{accumulation} = {batch_size * T * accumulation:,} tokens, but tokens_per_step "
            f"= {per_step:,}",
            mend="leave out one of them",
        )
    return batch_size, accumulation


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


def _compiles(config: TrainConfig, runtime: Runtime) -> bool:
    return runtime.device.type == "cuda" if config.compile == "auto" else config.compile


@contextmanager
def _stop_signals() -> Iterator[list[BaseException]]:
    """Ctrl-C and SIGTERM ask the loop to save and stop; only a second Ctrl-C stops at once, since
    a SIGTERM often comes twice, from a service manager and from our own parent."""
    asked: list[BaseException] = []

    def handle(number: int, _: object) -> None:
        if asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        asked.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
        print("\nstopping after this step ...", file=sys.stderr)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _random_loss(
    config: TrainConfig, model: GPT, bins: Bins, runtime: Runtime, step: int, batch_size: int
) -> float:
    """nanoGPT's estimate of the training loss, on random batches."""
    model.eval()
    losses = []
    with torch.inference_mode():
        for micro in range(config.eval_iters):
            x, y = random_windows(
                bins.train,
                seed=config.seed + 1,
                step=step,
                micro=micro,
                batch_size=batch_size,
                block_size=config.block_size,
            )
            with runtime.autocast():
                losses.append(model(x.to(runtime.device), y.to(runtime.device))[1].item())
    model.train()
    return float(sum(losses) / len(losses))


def _show_sample(config: TrainConfig, model: GPT, bins: Bins, out_dir: Path, step: int) -> None:
    """A few lines as the model writes them now, on screen and in samples/."""
    if not config.sample_chars:
        return
    tokenizer = bins.tokenizer
    [(ids, _)] = complete(
        model,
        [tokenizer.eot],
        eot=tokenizer.eot,
        seeds=[config.seed],
        max_new_tokens=config.sample_chars,
        temperature=0.8,
        k=None,
        never=tokenizer.never_sampled(),
    )
    text = tokenizer.decode(ids)
    with atomic_write(out_dir / "samples" / f"step_{step:08d}.txt") as file:
        file.write(text + "\n")
    shown = "\n".join(f"    | {line}" for line in itertools.islice(text.splitlines(), 8))
    print(shown, flush=True)


def _banner(
    config: TrainConfig,
    runtime: Runtime,
    bins: Bins,
    model: GPT,
    batch_size: int,
    accumulation: int,
    step: int,
) -> None:
    """The arithmetic of the run, once."""
    tokens = batch_size * accumulation * config.block_size
    n = len(bins.train.tokens)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = f" ({learning:,} of them trained, LoRA)" if config.lora_rank else ""
    print(
        f"settings:\n{config.shown()}\n"
        f"device:   {runtime.shown()}\n"
        f"data:     {bins.folder}: {bins.train.songs} songs, {n:,} tokens to train on; "
        f"{bins.val.songs} songs, {len(bins.val.tokens):,} tokens held out; "
        f"vocabulary {bins.tokenizer.vocab_size:,}\n"
        f"model:    {n_params(model):,} parameters{trained}, {config.n_layer} layers, "
        f"{config.n_head} heads, {config.n_embd} wide, {model.config.attn_type}\n"
        f"step:     {batch_size} sequences x {config.block_size} tokens x {accumulation} "
        f"micro-batches = {tokens:,} tokens; {n / tokens:.1f} steps an epoch\n"
        f"run:      {config.out_dir}, steps {step:,} to {config.max_iters:,}; "
        f"loss of pure chance {math.log(bins.tokenizer.vocab_size):.3f}",
        flush=True,
    )


def _epoch(step: int, tokens_per_step: int, bins: Bins) -> float:
    return round(step * tokens_per_step / len(bins.train.tokens), 4)


def _mfu(flops_per_s: float, runtime: Runtime) -> float | None:
    """Share of the device's peak in half precision; None where the peak is not known."""
    if runtime.device.type != "cuda" or runtime.dtype == torch.float32:
        return None
    name = torch.cuda.get_device_name(runtime.device)
    peak = next((tflops for key, tflops in PEAK_TFLOPS.items() if key in name), None)
    return round(flops_per_s / (peak * 1e12), 4) if peak else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    sys.exit(program(main, TrainConfig))
