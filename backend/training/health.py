"""Where in the model it goes well: gradient, weights and step size, per group of layers.

The update ratio is the length of a step over the length of the weights it moves. About 1e-3 is
usual for AdamW's matrices in mid-training (Karpathy's rule of thumb): a group far below learns
nothing, one far above is about to diverge. Muon's matrices take larger steps.

    embeddings   tokens, positions, pairs; a tied head is the token embedding
    h.0 ...      a block: attention and MLP, with their biases and LoRA adapters
    norms        all layer norms
    head         one of its own
"""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.evaluation.compare import read_rows
from backend.storage import atomic_write


class Health:
    """Measures one optimizer step; costs nothing in the others.

        health.before(model)         gradients are whole and unscaled, not yet clipped
        (clip, optimizer step)
        log.health(health.after(model, step=step, clipped=n))

    Between the two it holds a copy of all weights that are trained.

    Args:
        total: sums a vector over the processes that hold different parts of the weights (FSDP),
            all of which must then measure; where each holds all weights, leave it out.
    """

    def __init__(self, total: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.total = total
        self._gradients: dict[str, float] = {}
        self._weights: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def before(self, model: nn.Module) -> None:
        """Gradient norms, and a copy of the weights."""
        trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
        gradients = {k: _local(p.grad) for k, p in trained.items() if p.grad is not None}
        self._gradients = self._norms(gradients)
        self._weights = {k: _local(p).clone() for k, p in trained.items()}

    @torch.no_grad()
    def after(self, model: nn.Module, *, step: int, clipped: int) -> dict[str, Any]:
        """The row for health.jsonl.

        Args:
            step: optimizer steps done, this one included.
            clipped: steps since the last row whose gradient was scaled down.
        """
        assert self._weights, "before() comes first"
        weights = self._norms(self._weights)
        now = dict(model.named_parameters())
        for name, old in self._weights.items():
            old.sub_(_local(now[name]))  # in place: one copy of the weights, not two
        changes = self._norms(self._weights)
        self._weights = {}
        groups = {
            group: {
                "grad_norm": self._gradients.get(group, 0.0),
                "weight_norm": norm,
                # what starts at zero has no ratio in its first step
                "update_ratio": changes[group] / norm if norm else None,
            }
            for group, norm in weights.items()
        }
        return {"step": step, "clipped": int(clipped), "groups": groups}

    def _norms(self, tensors: dict[str, torch.Tensor]) -> dict[str, float]:
        """Group -> norm of all its tensors together, in one message between processes."""
        squares: dict[str, list[torch.Tensor]] = defaultdict(list)
        for name, tensor in tensors.items():
            squares[group_of(name)].append(torch.linalg.vector_norm(tensor.float()).square())
        if not squares:
            return {}
        sums = torch.stack([torch.stack(each).sum() for each in squares.values()])  # (groups,)
        if self.total is not None:
            sums = self.total(sums)
        return dict(zip(squares, sums.sqrt().tolist(), strict=True))


def group_of(name: str) -> str:
    """The group of a parameter, whatever wraps the model: `_orig_mod.transformer.h.3.mlp...`."""
    if re.search(r"(^|\.)ln_\w+\.", name):
        return "norms"
    if block := re.search(r"(?:^|\.)(h\.\d+)\.", name):
        return block[1]
    return "head" if "lm_head." in name else "embeddings"


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' part of a tensor that FSDP spread out; of others, all of it."""
    to_local = getattr(tensor, "to_local", None)
    part: torch.Tensor = to_local() if to_local else tensor
    return part.detach()


def plot_health(out_dir: Path) -> Path | None:
    """health.png: gradient norms, update ratios under them, clipped steps as ticks; None without
    a health.jsonl."""
    rows = read_rows(out_dir / "health.jsonl")
    if not rows:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    names = list(rows[0]["groups"])
    blocks = [name for name in names if name.startswith("h.")]
    shades = pyplot.get_cmap("viridis")
    for axis, measure in zip(axes, ("grad_norm", "update_ratio"), strict=True):
        for name in names:
            # None where it was not finite, or there was nothing to divide by
            found = [(r["step"], r["groups"].get(name, {}).get(measure)) for r in rows]
            points = [(step, value) for step, value in found if value]
            steps, values = [p[0] for p in points], [p[1] for p in points]
            if name in blocks:  # from dark to bright as they go up
                color = shades(blocks.index(name) / len(blocks))
                ends = name in (blocks[0], blocks[-1])
                axis.plot(steps, values, color=color, linewidth=1, label=name if ends else None)
            else:
                axis.plot(steps, values, linewidth=1.5, label=name)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
    clipped = [row["step"] for row in rows if row["clipped"]]
    axes[0].plot(clipped, [0.02] * len(clipped), "|", color="red", label="clipped",
                 transform=axes[0].get_xaxis_transform())  # fmt: skip
    axes[0].set_title(out_dir.name)
    axes[0].set_ylabel("gradient norm, before clipping")
    axes[0].legend(fontsize="small", ncols=3)
    axes[1].set_ylabel("update / weight")
    axes[1].set_xlabel("step")
    path = out_dir / "health.png"
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
    return path
