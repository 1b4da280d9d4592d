"""Any timm model as an encoder: its own evaluation preprocessing, pooled features, weights from timm or a file."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.data import resolve_data_config

from sspruning.encoders.checkpoint import file_sha256, load_trunk, state_dict_sha256
from sspruning.encoders.preprocess import Preprocess
from sspruning.encoders.torch_forward import TorchForward, fold_batchnorm, pad_rows
from sspruning.errors import MachineError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import nn

    from sspruning.records import F32, EncoderSpec, JSONValue

__all__ = ["TimmEncoder", "build", "check_model_name", "create_trunk"]


class TimmEncoder:
    """A timm trunk with its preprocessing.

    `prepare` applies timm's geometric transforms to the image; converting, scaling and normalising are done for the
    whole batch at once on the device, equal to timm's own transform within float32 rounding.

    Args:
        trunk: timm model whose output is the embedding, on the CPU; batch norms are folded into its convolutions.
        preprocess: made from the model's data configuration.
        spec: device, dtype, batch size and so on.
        facts: entries of ``identity`` that the caller knows: encoder, model, weights_sha256.
        notes: lines for people so far.

    Raises:
        UsageError: the model does not return (rows, dim).
        MachineError: the device that was asked for is not there.
    """

    def __init__(
        self,
        trunk: nn.Module,
        preprocess: Preprocess,
        spec: EncoderSpec,
        *,
        facts: dict[str, JSONValue],
        notes: list[str],
    ) -> None:
        self._preprocess = preprocess
        pooling = _pooling(trunk)
        noise = torch.rand((1, 3, preprocess.side, preprocess.side), generator=torch.Generator().manual_seed(0))
        folded = fold_batchnorm(trunk.eval(), 2 * noise - 1)
        self._forward = TorchForward(trunk, 2 * noise - 1, spec, notes)
        factor, offset = preprocess.affine_row()
        self._factor = torch.from_numpy(factor).to(self._forward.device)
        self._offset = torch.from_numpy(offset).to(self._forward.device)
        self.dim = self._forward.dim
        self.batch_size = spec.batch_size
        self.draft_size: int | None = preprocess.resized_side
        self.notes = notes
        self.identity: dict[str, JSONValue] = {
            **facts,
            "preprocess": preprocess.described,
            "pooling": pooling,
            "batchnorms_folded": folded,
            **self._forward.identity,
        }

    def prepare(self, image: Image) -> np.ndarray:
        """(side, side, 3) uint8: the image after timm's own resize and crop."""
        return self._preprocess.geometry(image)

    def normalised(self, batch: np.ndarray) -> torch.Tensor:
        """(rows, 3, side, side) float32 on the device: timm's ToTensor and Normalize of (rows, side, side, 3) uint8."""
        rows, height, width, _ = batch.shape
        pixels = torch.from_numpy(batch).to(self._forward.device).view(rows * height, 3 * width).to(torch.float32)
        return pixels.mul_(self._factor).add_(self._offset).view(rows, height, width, 3).permute(0, 3, 1, 2)

    def embed(self, batch: np.ndarray) -> F32:
        """(m, dim) float32 trunk features, not normalised, of (m, side, side, 3) uint8; m <= batch_size."""
        return self._forward.rows(self.normalised(pad_rows(batch, self.batch_size)), len(batch))


def build(spec: EncoderSpec) -> TimmEncoder:
    """Encoder for the timm model ``spec.model``, with weights from ``spec.checkpoint`` or from timm's own download.

    Raises:
        UsageError: unknown model, no weights to be had for it, or a checkpoint that does not fit.
        MachineError: the weights cannot be downloaded here, or the device is not there.
    """
    if spec.factory is not None:
        raise UsageError("encoder 'timm' takes no factory; use encoder 'custom'")
    if spec.model is None:
        raise UsageError("encoder 'timm' needs a model name, for example --model resnet50.a1_in1k")
    check_model_name(spec.model, has_checkpoint=spec.checkpoint is not None)
    sized = {} if spec.image_size is None else {"img_size": spec.image_size}
    trunk = create_trunk(spec.model, pretrained=spec.checkpoint is None, **sized)
    notes = load_trunk(trunk, spec.checkpoint) if spec.checkpoint is not None else []
    digest = state_dict_sha256(trunk) if spec.checkpoint is None else file_sha256(spec.checkpoint)
    facts: dict[str, JSONValue] = {"encoder": "timm", "model": spec.model, "weights_sha256": digest}
    return TimmEncoder(trunk, Preprocess(resolve_data_config(sized, model=trunk)), spec, facts=facts, notes=notes)


def create_trunk(model: str, *, pretrained: bool, num_classes: int = 0, **kwargs: Any) -> nn.Module:
    """Model of timm in eval mode.

    Args:
        model: timm name.
        pretrained: download timm's weights (or take them from the cache of an earlier download).
        num_classes: outputs of the classifier; 0 for none, as all encoders but those whose last layer is a whitening.
        kwargs: for the model; ``img_size`` is left out where the architecture takes images of any size.

    Raises:
        UsageError: timm refuses the settings.
        MachineError: the weights cannot be downloaded.
    """
    try:
        return timm.create_model(model, pretrained=pretrained, num_classes=num_classes, **kwargs).eval()
    except TypeError as error:
        if "img_size" in kwargs:
            rest = {key: value for key, value in kwargs.items() if key != "img_size"}
            return create_trunk(model, pretrained=pretrained, num_classes=num_classes, **rest)
        raise UsageError(f"timm cannot create {model!r}: {error}") from error
    except Exception as error:  # requests, httpx, the hub and urllib each have their own tree of errors
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not pretrained:
            raise UsageError(f"timm cannot create {model!r}: {first}") from error
        raise MachineError(
            f"the weights of {model!r} could not be fetched ({type(error).__name__}: {first}); download them on a "
            "machine with a network and pass the file with --checkpoint FILE, or use the encoder 'shipped', "
            "which needs no download"
        ) from error


def check_model_name(model: str, *, has_checkpoint: bool) -> None:
    """Nothing, if timm knows the model; names that only a hub can know pass.

    Raises:
        UsageError: no such architecture (with the nearest names) or weights tag, or no weights and no checkpoint.
    """
    if ":" in model:  # hf-hub:owner/name and the like: only the hub knows these
        return
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"timm {timm.__version__} has no model {architecture!r}.{hint}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise UsageError(f"timm {timm.__version__} has no weights {tag!r} for {architecture!r}; known: {known}")
    if not has_checkpoint and not timm.is_model_pretrained(model):
        raise UsageError(f"timm has no pretrained weights for {model!r}; pass some with --checkpoint FILE")


def _pooling(trunk: nn.Module) -> str:
    pool = getattr(trunk, "global_pool", None)
    kind = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
    return str(kind or "model's own")
