"""Weights that need no file: the same numbers here and in tests/support/random_weights.rs.

value[i] = centre + (2 u - 1) * half,  u = (splitmix64(fnv1a64(name) + i) >> 40) / 2^24

All arithmetic after u is float32, so both sides agree bit for bit. Centre and half come from the name's
last part and from the shape (`scale`), chosen so that activations stay of order one and no parameter is idle.
"""

import math

import numpy as np

MASK = 0xFFFFFFFFFFFFFFFF


def fnv1a64(name: str) -> int:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def uniform(name: str, count: int) -> np.ndarray:
    """float32 in [-1, 1), exact multiples of 2^-23."""
    z = np.arange(count, dtype=np.uint64) + np.uint64(fnv1a64(name))
    z += np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return np.float32(2) * u - np.float32(1)


def scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """(centre, half width) of a parameter."""
    last = name.rsplit(".", 1)[-1]
    fan_in = math.prod(shape[1:])
    if last.endswith("gate") or last == "skipinit_gain":
        return 0.5, 0.25
    if last in ("latents", "frame_embs", "media_time_embs"):
        return 0.0, 1.0
    if last in ("bias", "beta") or last.endswith("_bias"):
        return 0.0, 0.125
    if fan_in == 1:
        return 1.0, 0.25
    return 0.0, math.sqrt(3.0 / fan_in)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter of this name and shape."""
    centre, half = scale(name, tuple(shape))
    return values(name, shape, centre, half)


def values(name: str, shape: tuple[int, ...], centre: float, half: float) -> np.ndarray:
    """Numbers with a stated centre and half width: inputs."""
    flat = np.float32(centre) + uniform(name, math.prod(shape)) * np.float32(half)
    return flat.astype(np.float32).reshape(tuple(shape))


def fill(module, prefix: str = "") -> None:
    """Overwrites every parameter and float buffer of a torch module, by its state-dict name under `prefix`."""
    import torch

    with torch.no_grad():
        for name, target in module.state_dict().items():
            if target.is_floating_point():
                target.copy_(torch.from_numpy(tensor(prefix + name, tuple(target.shape))))


def save(path, tensors: dict, **metadata: str) -> None:
    """Writes a golden with the versions that made it."""
    import platform
    import sys

    from safetensors.numpy import save_file

    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for package in ("torch", "torchvision", "timm", "transformers", "PIL", "open_flamingo"):
        if package in sys.modules:
            versions[package] = str(getattr(sys.modules[package], "__version__", "unknown"))
    arrays = {k: np.ascontiguousarray(v if isinstance(v, np.ndarray) else v.detach().numpy()) for k, v in tensors.items()}
    save_file(arrays, str(path), metadata={**versions, **metadata})
