"""Networks converted to OpenVINO, which computes them faster on a CPU than torch.

A network is converted once and kept in a private folder, under a hash of its weights
and layers. It comes from nnU-Net's predictor, so its model has been judged. A
conversion is used only if it answers as the network of torch does.
"""

import hashlib
import math
import sys
import warnings
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from nnunet_bridge.formats.folders import put_in_place, work_folder
from nnunet_bridge.formats.system import others_can_write

_CPU = {
    "INFERENCE_PRECISION_HINT": "f32",  # OpenVINO takes half precision where it can
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": False,  # other programs use the cores, too
}
_STREAMS = 4  # more need more memory than nnU-Net
_SMALL = 1 << 17
"""Voxels of a window up to which threads waste time when they share one."""

_NETWORK = "network.xml"
_CLOSE = 1e-3
"""Largest difference of a logit that is rounding, by the largest logit."""


class NotConvertedError(RuntimeError):
    """OpenVINO cannot compute a network, or computes something else."""


class Converted(torch.nn.Module):
    """A network of OpenVINO that is called as one of torch is."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - OpenVINO's types
        super().__init__()
        threads, size = torch.get_num_threads(), math.prod(model.inputs[0].shape[2:])
        self.at_once = min(threads, _STREAMS) if size <= _SMALL else 1
        """How many windows can be computed at the same time, each by fewer threads."""

        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": self.at_once}
        compiled = _openvino().Core().compile_model(model, "CPU", {**_CPU, **options})
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.at_once):
            self._free.put(compiled.create_infer_request())
        # OpenVINO's first call prepares what all share; two at once can wait for each
        # other for ever.
        self(torch.zeros(*model.inputs[0].shape))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """Return the (1, heads, ...) logits of a (1, channels, ...) window."""
        request = self._free.get()
        try:
            (logits,) = request.infer([window.numpy()], share_inputs=True).values()
        finally:
            self._free.put(request)
        return torch.from_numpy(logits)


def converted(
    network: torch.nn.Module, window: tuple[int, ...], step: tuple[int, ...], kept: Path
) -> Converted:
    """Return a network in OpenVINO for windows of a size, (channels, ...).

    The weights of `network` are freed: OpenVINO keeps two copies, and a third would
    need more memory than nnU-Net does. After an error, load the network again.

    Parameters
    ----------
    step : tuple of int
        The smallest size of a window that the network takes, (channels, ...).
    kept : Path
        Folder of the networks that are converted, of this user alone.

    Raises
    ------
    NotConvertedError
        If OpenVINO cannot compute the network, its logits are not those of torch, or
        others can write to the folder.
    """
    try:
        _make_private(kept)
        folder = kept / _key(network)
        if not folder.is_dir():
            twice = [step[0], *(2 * size for size in step[1:])]
            larger = tuple(map(min, twice, window))
            _convert(network, larger, step, folder)
        network.to("meta")
        model = _openvino().Core().read_model(folder / _NETWORK)
        model.reshape([1, *window])
        return Converted(model)
    except NotConvertedError:
        raise
    except Exception as error:  # whatever a converter of others can do
        raise NotConvertedError(str(error).strip().partition("\n")[0]) from error


def _convert(
    network: torch.nn.Module,
    larger: tuple[int, ...],
    step: tuple[int, ...],
    folder: Path,
) -> None:
    """Convert a network and put it into `folder`, if it is that of torch.

    It is traced with a window of the size `step`, which takes a moment, and compared
    with one of the size `larger`: the computation may not depend on the size.
    """
    openvino, seeded = _openvino(), torch.Generator().manual_seed(0)
    with work_folder(folder.parent, "convert") as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises its users against `jit.trace`
        new = work / folder.name
        new.mkdir()
        small, large = (torch.randn(1, *s, generator=seeded) for s in (step, larger))
        theirs = network(large).numpy()
        model = openvino.convert_model(network, example_input=small)
        openvino.save_model(model, new / _NETWORK, compress_to_fp16=False)
        network.to("meta")
        model = openvino.Core().read_model(new / _NETWORK)
        model.reshape(list(large.shape))
        ours = Converted(model)(large).numpy()
        close = _CLOSE * np.abs(theirs).max()
        if ours.shape != theirs.shape or not np.abs(ours - theirs).max() <= close:
            raise NotConvertedError("its logits are not those of torch")
        put_in_place(new, folder)


def _key(network: torch.nn.Module) -> str:
    """Return a hash of the layers and weights, and of what converts them."""
    made_by = f"{_openvino().__version__} {torch.__version__} {network}"
    digest = hashlib.sha256(made_by.encode())
    for name, weights in network.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.contiguous().numpy().tobytes())
    return digest.hexdigest()


def smallest_step(strides: Any, patch: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ANN401 - plans
    """Return the size of a window that passes through all stages: a few voxels.

    `strides` are those of the stages, as plans have them; without them it is `patch`.
    """
    if not strides:
        return patch
    stages = [s if isinstance(s, list) else [s] * len(patch) for s in strides]
    least = (2 * math.prod(axis) for axis in zip(*stages, strict=True))
    return tuple(map(min, least, patch))


def _make_private(folder: Path) -> None:
    folder.mkdir(0o700, parents=True, exist_ok=True)
    if others_can_write(folder):
        raise NotConvertedError(f"others can write to {folder}")


def _openvino() -> Any:  # noqa: ANN401 - an extra, which need not be installed
    # Without it, OpenVINO's converter sends no statistics of its use.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
