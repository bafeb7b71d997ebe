"""Weights laid out for writing, where a few rows meet every matrix and reading it is all the work.

    float32   one row: transposed where that is faster; several: in oneDNN's own order
    bfloat16  in oneDNN's own order: half the bytes
    int8      a byte each and a scale per output (Jacob et al., 1712.05877); inputs are scaled as
              they come. A quarter of the bytes, and other logits: `sample` says what that costs

On CPUs only: GPUs are fast with matrices as they are. A small matrix stays as it is too.
"""

import warnings

import torch
from torch import nn

from backend.errors import ConfigError, first_line
from backend.models.gpt import GPT
from backend.runtime import cpu_has_bfloat16

LEAST = 2**17  # elements of a matrix below which the call costs more than the bytes


class Transposed(nn.Module):
    """x W^T + b, with W^T lying row by row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach().t().contiguous()
        self.bias: torch.Tensor | None = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.size(-1))
        bias = self.bias
        out = rows @ self.weight if bias is None else torch.addmm(bias, rows, self.weight)
        return out.view(*x.shape[:-1], -1)


class Reordered(nn.Module):
    """The same by oneDNN, whose kernels want weights in an order of their own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return out


class Int8(nn.Module):
    """Weights in a byte each; products in 32-bit integers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127  # (out,)
        zeros = torch.zeros_like(scales, dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per", UserWarning)  # they will go
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(rounded, bias)
        # without VNNI sums of two products may overflow 16 bits: inputs then get 7 bits
        has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        self.reduce_range = not (has.get("avx512_vnni") or has.get("avx_vnni"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return out


def pack(model: GPT, how: torch.dtype, rows: int) -> GPT:
    """The model with its matrices laid out for so many rows: for reading alone, in place.

    Args:
        how: float32, bfloat16 (then all weights become so), or int8.
    Raises:
        ConfigError: int8 where this PyTorch, or this device, has no such products.
    """
    on_cpu = model.lm_head.weight.device.type == "cpu"
    if how == torch.int8 and not on_cpu:
        raise ConfigError(
            f"quantize = int8 is for CPUs, and the model is on {model.lm_head.weight.device.type}",
            mend="--device=cpu, or leave quantize out",
        )
    if how in (torch.bfloat16, torch.float16):
        for weight in model.parameters():  # not the tables of positions, which stay exact
            weight.data = weight.data.to(how)
    if not on_cpu:
        return model
    kind: type[nn.Module] | None = None
    if how == torch.int8:
        kind = Int8
    elif how == torch.float32 and rows == 1:
        kind = Transposed
    elif hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and (
        (how == torch.float32 and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        or (how == torch.bfloat16 and cpu_has_bfloat16())
    ):
        kind = Reordered
    if kind is None:
        return model
    try:
        for module in [*model.modules()]:
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, nn.Identity())  # a call less for each of hundreds
                elif isinstance(child, nn.Linear) and child.weight.numel() >= LEAST:
                    tall = child.in_features > child.out_features  # BLAS has those faster as is
                    if not (tall and kind is Transposed):
                        setattr(module, name, kind(child))
    except (AttributeError, RuntimeError) as error:
        if kind is not Int8:
            raise
        raise ConfigError(
            f"PyTorch {torch.__version__} has no int8 products on this machine",
            why=first_line(error),
            mend="leave quantize out; --dtype=bfloat16 is fast where the processor has it",
        ) from error
    return model
