"""Hostile weights: cases 87 to 90."""

import json
import os
import struct

from hostile.harness import Case, Refused

__all__ = ["CASES"]

MODEL = "test_resnet"


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch MARKER",)


def pickled(**held):
    """A builder of ``w.pth``, as torch writes it."""

    def build(folder):
        import torch

        torch.save({"w": torch.zeros(1)} | held, folder / "w.pth")

    return build


def legacy(folder):
    import torch

    torch.save({"state_dict": Evil()}, folder / "w.pth", _use_new_zipfile_serialization=False)


def scripted(folder):
    """A TorchScript archive, which holds code."""
    import zipfile

    with zipfile.ZipFile(folder / "w.pth", "w") as archive:
        archive.writestr("w/code/__torch__.py", "import os\nos.system('touch MARKER')\n")
        archive.writestr("w/constants.pkl", b"\x80\x02).")
        archive.writestr("w/data.pkl", b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch MARKER\x85R.")
        archive.writestr("w/version", "3\n")


def tensors(header, data=bytes(16), length=None):
    """A builder of ``w.safetensors`` with this header."""

    def build(folder):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        (folder / "w.safetensors").write_bytes(struct.pack("<Q", size) + text + data)

    return build


def four(start=0, stop=16, shape=(4,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}


def other_shape(folder):
    import timm
    from safetensors.torch import save_file

    held = timm.create_model(MODEL, num_classes=0).state_dict()
    save_file(
        {name: value[:1].clone() if value.ndim == 4 else value for name, value in held.items()},
        folder / "w.safetensors",
    )


def card(folder):
    """A card whose weights are not the ones that it vouches for."""
    facts = {
        "architecture": MODEL, "model_kwargs": {}, "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3,
        "interpolation": "bicubic", "crop_pct": 1.0, "sha256": "0" * 64,
    }  # fmt: skip
    (folder / "w.json").write_text(json.dumps(facts))
    tensors({"w": four()})(folder)


def pth(number, title, build):
    return Case(number, title, build, Refused("w.pth: refused, loading it could run code"), inputs=("w.pth",))


def safe(number, title, build, message="w.safetensors: cannot be read"):
    return Case(number, title, build, Refused(message), inputs=("w.safetensors",))


CASES = [
    pth(87, "pickle that calls os.system", pickled(extra=Evil())),
    pth(87, "pickle of the old format", legacy),
    Case(87, "archive with code and a pickle", scripted, Refused("w.pth: cannot be read"), inputs=("w.pth",)),
    safe(88, "header of 2^63 bytes", tensors(b"{}", length=1 << 63)),
    safe(88, "header of 200 MB", tensors(b"{}", length=200_000_000)),
    safe(88, "overlapping tensors", tensors({"a": four(), "b": four(8, 24)}, bytes(24))),
    safe(88, "tensor beyond the end", tensors({"a": four(0, 1 << 40, (1 << 38,))})),
    safe(88, "cut", tensors({"a": four()}, bytes(10))),
    safe(88, "JSON nested deep", tensors(b"[" * 100_000)),
    safe(89, "other shapes", other_shape, "shapes differ"),
    Case(90, "another sha256 than the card says", card, Refused("not of one export"), inputs=("w.json",)),
]
