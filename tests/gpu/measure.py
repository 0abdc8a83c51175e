"""What training does on a GPU: ``python tests/gpu/measure.py``, which needs torch and timm alone for its first table.

Of each preset and each way of computing: samples a second, the share of the device's peak (by PyTorch's own count of
operations), the peak memory. Then, where zarr and numcodecs are, how long a model waits for data from a store that is
written here. Each row is printed as it ends, one that fails is a row too, and no row is begun after ``--minutes``.

``--small`` takes sizes that a CPU can do in a minute, to see that all of it works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (found beside this file's own packages)
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bf16 products, FLOP/s, from NVIDIA's data sheets."""

LARGE = {"bands": 16, "frames": 7, "pixels": 512, "patch": 16, "ratio": 0.6, "size": "large", "kind": "temporal"}
SHAPES: dict[str, dict[str, Any]] = {
    "satvision_pix4d": LARGE,
    "satmae_temporal": {**LARGE, "frames": 3, "pixels": 224, "ratio": 0.75},
    "abi_temporal_group": {**LARGE, "pixels": 256, "ratio": 0.75, "size": "base", "kind": "temporal_group"},
}
"""What tests/training/test_measure.py holds to the presets: they are read here without pydantic."""
BATCHES = {"satvision_pix4d": (2, 4), "satmae_temporal": (32,), "abi_temporal_group": (4, 8)}
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"compile": True},
    {"checkpointing": "selective"},
    {"checkpointing": True},
    {"sdpa": "math"},
)
SMALL = {"bands": 4, "frames": 2, "pixels": 32, "patch": 8, "ratio": 0.6, "size": "nano", "kind": "temporal"}


def say(row: dict[str, Any]) -> None:
    """Print a row at once."""
    print(json.dumps(row), flush=True)  # noqa: T201  (a script: its rows are its result)


def attempt(told: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Measure, or say why not."""
    try:
        say({**told, **measure()})
    except Exception as error:  # noqa: BLE001  (what fails is a row too)
        say({**told, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settings(shape: dict[str, Any], checkpointing: Any) -> Any:
    """Settings of a model, without pydantic: the model reads attributes only."""
    count, groups = shape["bands"], None
    if shape["kind"] == "temporal_group":
        groups = ((0, 1, 2), (3, 4, 5, 6), (7, 8, 9), tuple(range(10, count)))
    side = shape["pixels"] // shape["patch"]
    indices = groups or (tuple(range(count)),)
    tokens = shape["frames"] * len(indices) * side * side
    sizes = {"nano": (96, 3, 3, 96, 2, 3), "base": (768, 12, 12, 512, 8, 16), "large": (1024, 24, 16, 512, 8, 16)}
    names = ("embed_dim", "depth", "heads", "decoder_dim", "decoder_depth", "decoder_heads")
    places = side * side
    drawn = places if groups else tokens
    return types.SimpleNamespace(
        dimensions=types.SimpleNamespace(**dict(zip(names, sizes[shape["size"]], strict=True))),
        bands=tuple(map(str, range(count))),
        group_indices=indices,
        frames=shape["frames"],
        patch_size=shape["patch"],
        grid=(side, side),
        height_width=(shape["pixels"], shape["pixels"]),
        invalid="learned",
        drop_path=0.0,
        mask="tube" if groups else "independent",
        mask_ratio=shape["ratio"],
        norm_pix_loss=False,
        start="none",
        has_time_code=True,
        checkpointing=checkpointing,
        tokens=tokens,
        visible_tokens=tokens // drawn * max(1, round(drawn * (1 - shape["ratio"]))),
    )


def modules() -> Any:
    """The model's modules, with what they import of settings left out where pydantic is not there."""
    if importlib.util.find_spec("pydantic") is None:
        stub = types.ModuleType("training.models.settings")
        stub.ModelConfig = object  # type: ignore[attr-defined]
        sys.modules["training.models.settings"] = stub
    spec = importlib.util.spec_from_file_location("compatibility", ROOT / "loaders" / "compatibility.py")
    assert spec is not None
    assert spec.loader is not None
    compatibility = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compatibility)
    compatibility.make_importable()
    for name in ("training", "training.models"):  # not their __init__: they prepare what is not needed here
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, package)
    from training.models import mae, masks

    return mae, masks


def step_of(config: Any, batch: int, device: torch.device, way: dict[str, Any]) -> tuple[Callable[[], None], Any]:
    """One step of training on random pixels, with masks drawn anew and copied from pinned memory as in a run."""
    mae, masks = modules()
    torch.manual_seed(0)
    model = mae.MaskedAutoencoder(config).to(device).train()
    if way.get("compile"):
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    pixels = torch.randn(batch, config.frames, len(config.bands), *config.height_width, device=device)
    valid = torch.rand(pixels.shape, device=device) > 0.02
    minutes = 26_297_280 + 20 * torch.arange(config.frames, device=device).repeat(batch, 1)
    done = 0

    def step() -> None:
        nonlocal done
        mask = masks.draw_masks(config, 0, range(done, done + batch))
        if device.type == "cuda":
            mask = masks.TokenMask(*(part.pin_memory() for part in mask))
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(pixels, valid, minutes, mask.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += batch

    return step, model


def compute(shape: dict[str, Any], batch: int, way: dict[str, Any], device: torch.device, steps: int) -> dict[str, Any]:
    """Time some steps."""
    config = settings(shape, way.get("checkpointing", False))
    step, model = step_of(config, batch, device, way)
    plain = {**way, "compile": False, "checkpointing": False}
    counted, _ = step_of(settings(shape, False), batch, device, plain)
    with FlopCounterMode(display=False) as counter, backend("math"):
        counted()
    flops = counter.get_total_flops()
    del counted
    with backend(way.get("sdpa")):
        for _ in range(3):
            step()
        synchronise(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(device)
    seconds = (time.perf_counter() - begun) / steps
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "device": name,
        "parameters_M": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "step_s": round(seconds, 4),
        "samples_per_s": round(batch / seconds, 2),
        "tflop_a_sample": round(flops / batch / 1e12, 4),
        "mfu": None if peak is None else round(flops / seconds / peak, 4),
        "memory_gib": None if memory is None else round(memory, 2),
    }


def backend(name: str | None) -> Any:
    """Way of attention: all, or one that counts its operations."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    every = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel([SDPBackend.MATH] if name == "math" else every)


def syncs(shape: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Whether a step makes the host wait for the device: PyTorch raises where it does."""
    if device.type != "cuda":
        return {"host_waits": "not told by a CPU"}
    step, _ = step_of(settings(shape, False), 2, device, {})
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"host_waits": 0}


def data_wait(shape: dict[str, Any], batch: int, device: torch.device, steps: int, workers: int) -> dict[str, Any]:
    """Share of the time for which a trainer waits for tiles of a store that is written here."""
    for name in [name for name in sys.modules if name == "training" or name.startswith("training.")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("tiny_store", ROOT / "tests" / "loaders" / "tiny_store.py")
    assert spec is not None
    assert spec.loader is not None
    tiny_store = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_store)
    from training.config import validate
    from training.trainer import Trainer

    channels = tuple(range(1, shape["bands"] + 1))
    bands = [f"C{channel:02d}" for channel in channels]
    with tempfile.TemporaryDirectory() as folder:
        tiles = max(2 * batch, 8)
        tiny_store.write_store(
            Path(folder), tiles=tiles + 2, steps=shape["frames"], size=shape["pixels"], channels=channels, per_shard=1
        )
        config = {
            "name": "measure",
            "output_dir": f"{folder}/run",
            "model": {
                "kind": "temporal",
                "size": shape["size"],
                "bands": bands,
                "frames": shape["frames"],
                "image_size": shape["pixels"],
                "patch_size": shape["patch"],
                "mask_ratio": shape["ratio"],
            },
            "data": {
                "source": "tiles",
                "stores": [{"path": folder}],
                "where": f"tile < {tiles}",
                "validation_where": f"tile >= {tiles}",
                "statistics": "own",
                "batch_size": batch,
                "workers": workers,
            },
            "optimizer": {"lr": 1e-4, "steps": 2 * steps, "clip": 1.0},
            "run": {"accelerator": device.type, "devices": 1, "precision": "bf16-mixed"},
            "logs": {"every_steps": steps},
            "validation": {"every_epochs": None},
            "checkpoints": {"every_steps": 10 * steps},
        }
        Trainer(validate(config, "measure")).fit()
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    names = ("samples_per_s", "step_s", "data_wait", "mfu", "memory_gib")
    return {name: rows[-1][name] for name in names}


def work(device: torch.device, small: bool) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Rows and how each is measured, the most wanted first."""
    shapes = {"small": SMALL} if small else SHAPES
    steps = 2 if small else 10

    def computing(shape: dict[str, Any], batch: int, way: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        return lambda: compute(shape, batch, way, device, steps)

    for way in WAYS:
        for name, shape in shapes.items():
            for batch in (2,) if small else BATCHES[name]:
                yield {"what": "step", "preset": name, "batch": batch, **way}, computing(shape, batch, way)
        if not way:
            first, shape = next(iter(shapes.items()))
            yield {"what": "waits", "preset": first}, lambda shape=shape: syncs(shape, device)
            batch = 2 if small else 4
            yield (
                {"what": "data", "preset": first, "batch": batch},
                lambda shape=shape, batch=batch: data_wait(shape, batch, device, steps, 0 if small else 12),
            )


def main() -> None:
    """Measure all there is time for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no row after this")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    begun = time.monotonic()
    for told, measure in work(device, options.small):
        if time.monotonic() - begun > 60 * options.minutes:
            say({**told, "failed": "no time left"})
            continue
        attempt(told, measure)


if __name__ == "__main__":
    main()
