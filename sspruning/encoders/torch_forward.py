"""One torch module, run as fast as this machine allows with rows that do not depend on their neighbours.

Measured for timm `resnet10t` (channels 48, 96, 192, 384) at 64 px, batch 128, one thread of an AMD EPYC with
AVX512-BF16, torch 2.15; images a second, and the smallest cosine to the plain float32 model:

    plain float32                          595
    channels_last float32                  957   1.000000
    + batch norm folded into convolutions 1340   1.000000
    channels_last bfloat16 autocast       1872   0.999988
    + batch norm folded                   2074   0.999979   <- what this file does
    folded, bfloat16 weights              2080   0.999979
    folded, traced and frozen (jit)       2088   0.999979   (float32: slower, 1185), plus 0.4 to 1.4 s of tracing

So folding, channels_last and autocast; the rest wins nothing.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from sspruning.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from sspruning.records import F32, EncoderSpec, JSONValue

__all__ = ["TorchForward", "fold_batchnorm", "has_bfloat16", "pad_rows", "pick_device", "pick_dtype"]

_FASTER: Final = 1.15
"""bfloat16 has to win by this factor: below it the exact type is worth more than the time."""
_PROBE_S: Final = 0.1
_PROBE_PIXELS: Final = 16 * 64 * 64


class TorchForward:
    """(m, dim) float32 rows from (m, ...) float32 inputs, always computed in batches of exactly ``spec.batch_size``.

    Args:
        module: returns (rows, dim); put on its device and into eval mode here.
        sample: (1, ...) float32 input, for the dimension and the probe.
        spec: device, dtype, memory format, compile and batch size.
        notes: lines for people are appended here.

    Raises:
        UsageError: the module does not return one row per input, or a setting is unknown.
        MachineError: the device that was asked for is not there.
    """

    def __init__(self, module: nn.Module, sample: Tensor, spec: EncoderSpec, notes: list[str]) -> None:
        if spec.batch_size < 1:
            raise UsageError(f"batch_size must be 1 or more, got {spec.batch_size}")
        self.batch_size = spec.batch_size
        self.device = pick_device(spec.device, notes)
        self.channels_last = spec.channels_last and sample.ndim == 4  # (rows, channels, height, width)
        module = module.eval().requires_grad_(requires_grad=False).to(self.device)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        self._module = module
        self._dtype = torch.float32
        output = self._run(self._laid_out(sample.to(self.device)))
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(sample):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UsageError(f"the model returns {shape} for {tuple(sample.shape)}; an encoder must return (rows, dim)")
        self.dim = int(output.shape[1])
        self._dtype = pick_dtype(spec.dtype, self.device, self._timed(sample), notes)
        self._compiled = spec.compile
        if spec.compile:
            self._module = torch.compile(module)

    @property
    def identity(self) -> dict[str, JSONValue]:
        """What of an encoder's identity lies in the running: resolved dtype, device type, batch size, layout."""
        return {
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self.device.type,
            "batch_size": self.batch_size,
            "channels_last": self.channels_last,
            "compile": self._compiled,
        }

    def rows(self, batch: Tensor, count: int) -> F32:
        """First ``count`` rows, (count, dim) float32 on the CPU, for a full batch already on the device."""
        return self._run(self._laid_out(batch))[:count].float().cpu().numpy()

    def _laid_out(self, batch: Tensor) -> Tensor:
        return batch.contiguous(memory_format=torch.channels_last) if self.channels_last else batch.contiguous()

    def _run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), self._exact_kernels(), self._autocast():
            return self._module(batch)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def _exact_kernels(self) -> contextlib.AbstractContextManager[object]:
        """No choice of kernels by timing and no TF32: both would let the same run give other bits."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def _timed(self, sample: Tensor) -> Iterator[float]:
        """Seconds of one small forward: float32, bfloat16, float32, ... each warmed up first."""
        pixels = max(1, sample[0].numel() // 3)
        small = sample.expand(max(1, _PROBE_PIXELS // pixels), *sample.shape[1:]).to(self.device)
        small = self._laid_out(small)
        warm: set[torch.dtype] = set()
        while True:
            for dtype in (torch.float32, torch.bfloat16):
                self._dtype = dtype
                if dtype not in warm:
                    self._run(small)
                    warm.add(dtype)
                self._wait()
                start = time.perf_counter()
                self._run(small)
                self._wait()
                yield time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def pick_device(requested: str, notes: list[str]) -> torch.device:
    """Device to run on; for `auto` a CUDA GPU that answers, else Apple's, else the CPU.

    Raises:
        UsageError: not a device name.
        MachineError: a device that was asked for by name does not answer.
    """
    if requested == "auto":
        problem = _cuda_problem(torch.device("cuda"))
        if problem is None:
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if problem:
            notes.append(f"running on the CPU: {problem}")
        return torch.device("cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise UsageError(f"unknown device {requested!r}; one of auto, cpu, cuda, cuda:N, mps") from error
    if device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"unknown device {requested!r}; one of auto, cpu, cuda, cuda:N, mps")
    problem = _cuda_problem(device) if device.type == "cuda" else None
    if device.type == "mps" and not torch.backends.mps.is_available():
        problem = "this torch sees no Apple GPU"
    if problem is not None:
        raise MachineError(
            f"device {requested!r}: {problem or 'no CUDA GPU on this machine'}; use --device auto or cpu"
        )
    return device


def _cuda_problem(device: torch.device) -> str | None:
    """None if the GPU answers, "" if there is none, else why it does not work: torch's own warning or error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            return "; ".join(str(w.message).splitlines()[0] for w in caught)
        try:
            torch.zeros(1, device=device).add_(1).item()
        except RuntimeError as error:
            return f"the GPU does not answer ({str(error).splitlines()[0]})"
    return None


def pick_dtype(requested: str, device: torch.device, times: Iterator[float], notes: list[str]) -> torch.dtype:
    """float32 or bfloat16; for `auto` bfloat16 where the hardware has it and a small timed forward is clearly faster.

    Args:
        requested: auto, float32 or bfloat16.
        device: where the module runs.
        times: seconds of float32 and bfloat16 forwards in turn; read for `auto` only.
        notes: the reason is appended here.

    Raises:
        UsageError: not a dtype of the list.
    """
    if requested in {"float32", "bfloat16"}:
        return torch.float32 if requested == "float32" else torch.bfloat16
    if requested != "auto":
        raise UsageError(f"unknown dtype {requested!r}; one of auto, float32, bfloat16")
    if not has_bfloat16(device):
        return torch.float32
    end = time.perf_counter() + _PROBE_S
    plain, half = next(times), next(times)
    while time.perf_counter() < end:
        plain, half = min(plain, next(times)), min(half, next(times))
    chosen = torch.bfloat16 if plain > _FASTER * half else torch.float32
    notes.append(
        f"dtype {str(chosen).removeprefix('torch.')}: bfloat16 ran at {plain / half:.2f} x the speed of float32"
    )
    return chosen


def has_bfloat16(device: torch.device) -> bool:
    """True where the device has instructions for bfloat16; without them a GEMM ran 80 times slower (AVX2)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so absence means no
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def fold_batchnorm(module: nn.Module, sample: Tensor) -> int:
    """Number of batch norms that were folded into the convolution before them; 0 leaves the module as it was.

    One forward is watched: a batch norm whose input is the very tensor that a convolution has just returned is folded.
    The outputs before and after are compared, and all is undone where they differ (a tensor used twice, for example).

    Args:
        module: in eval mode, float32, on the CPU; changed in place.
        sample: (1, ...) float32 input.
    """
    pairs, before = _conv_norm_pairs(module, sample)
    if not pairs:
        return 0
    saved = [(conv, conv.weight, conv.bias, norm) for conv, norm in pairs]
    names = {id(norm): name for name, norm in module.named_modules()}
    for conv, norm in pairs:
        conv.weight, conv.bias = _folded(conv, norm)
        # timm's BatchNormAct2d also drops and activates; those two parts stay.
        parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        _replace(module, names[id(norm)], nn.Sequential(*(p for p in parts if not isinstance(p, nn.Identity))))
    with torch.inference_mode():
        after = module(sample)
    if torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
        return len(pairs)
    for conv, weight, bias, norm in saved:
        conv.weight, conv.bias = weight, bias
        _replace(module, names[id(norm)], norm)
    return 0


def _conv_norm_pairs(module: nn.Module, sample: Tensor) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], Tensor]:
    produced: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so that its id is not given out again
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def on_conv(conv: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(conv, nn.Conv2d):
            produced[id(output)] = (conv, output)

    def on_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = produced.get(id(inputs[0]))
        if found is not None and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            pairs.append((found[0], norm))

    hooks = [m.register_forward_hook(on_conv) for m in module.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(on_norm) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        with torch.inference_mode():
            before = module(sample)
    finally:
        for hook in hooks:
            hook.remove()
    used = [id(part) for pair in pairs for part in pair]
    return [pair for pair in pairs if used.count(id(pair[0])) == 1 and used.count(id(pair[1])) == 1], before


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of the one convolution that equals ``conv`` followed by ``norm``, worked out in float64."""
    weight, zero = conv.weight.double(), torch.zeros(conv.out_channels, dtype=torch.float64)
    mean = zero if norm.running_mean is None else norm.running_mean.double()
    variance = zero + 1 if norm.running_var is None else norm.running_var.double()
    gain = (zero + 1 if norm.weight is None else norm.weight.double()) / torch.sqrt(variance + norm.eps)
    bias = (zero if conv.bias is None else conv.bias.double()) - mean
    bias = bias * gain + (zero if norm.bias is None else norm.bias.double())
    weight = weight * gain.reshape(-1, 1, 1, 1)
    return nn.Parameter(weight.float(), requires_grad=False), nn.Parameter(bias.float(), requires_grad=False)


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, new)


def pad_rows(batch: np.ndarray, size: int) -> np.ndarray:
    """(size, ...) writable copy of ``batch``'s rows followed by zeros; ``batch`` itself where it is full and writable.

    Raises:
        UsageError: more rows than ``size``.
    """
    if len(batch) > size:
        raise UsageError(f"a batch of {len(batch)} rows was passed to an encoder whose batch_size is {size}")
    if len(batch) == size and batch.flags.writeable:
        return batch
    padded = np.zeros((size, *batch.shape[1:]), dtype=batch.dtype)
    padded[: len(batch)] = batch
    return padded
