"""Pictures, of a tiny store in the contract's layout whose right look is known."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
import zarr.errors
from PIL import Image

from cube.preview import contact_sheet, open_raw, thumbnail

SIZE, STEPS = 32, 3
PLANCK = {"planck_fk1": 10803.3, "planck_fk2": 1392.74, "planck_bc1": 0.0755, "planck_bc2": 0.99975}
COEFFICIENTS = ("packing_scale", "packing_offset", "kappa0", *PLANCK)
SCALE, OFFSET, KAPPA = 0.05, -1.0, 0.002


def counts_of(radiance):
    return np.clip((np.asarray(radiance) - OFFSET) / SCALE, 0, 65535).round().astype("u2")


def radiance_of(kelvin):
    bt = np.asarray(kelvin, "f8") * PLANCK["planck_bc2"] + PLANCK["planck_bc1"]
    return PLANCK["planck_fk1"] / (np.exp(PLANCK["planck_fk2"] / bt) - 1)


def write_store(
    path: Path, bands: dict[int, np.ndarray], *, zenith=30.0, valid=None, native=False, tiles=2, steps=STEPS
) -> Path:
    """Write counts given as images, shape (y, x), the same at every step of tile 1; tile 0 is all invalid."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    masks: dict[str, np.ndarray] = {}
    for channel, image in bands.items():
        suffix = f"_{image.shape[0]}px" if native else ""
        data = np.zeros((tiles, steps, *image.shape), "u2")
        data[1:] = image
        dims = ("tile", "time", f"y{suffix}", f"x{suffix}")
        array = group.create_array(
            f"C{channel:02d}",
            shape=data.shape,
            dtype="u2",
            chunks=(1, *data.shape[1:]),
            shards=(tiles, *data.shape[1:]),
            dimension_names=dims,
            attributes={"ancillary_variables": f"valid{suffix}"},
        )
        array[:] = data
        mask = masks.setdefault(f"valid{suffix}", np.zeros(data.shape, "u2"))
        usable = np.ones(data.shape[1:], bool) if valid is None else valid
        mask[1:][np.broadcast_to(usable, data[1:].shape)] |= np.uint16(1 << (channel - 1))
    for name, mask in masks.items():
        suffix = name.removeprefix("valid")
        channels = [c for c, image in bands.items() if not native or suffix == f"_{image.shape[0]}px"]
        flags = {
            "flag_masks": [1 << (c - 1) for c in channels],
            "flag_meanings": " ".join(f"C{c:02d}" for c in channels),
        }
        dims = ("tile", "time", f"y{suffix}", f"x{suffix}")
        group.create_array(name, data=mask, dimension_names=dims, attributes=flags)
    group.create_array("band", data=np.array(list(bands), "i1"), dimension_names=("band",))
    values = {"packing_scale": SCALE, "packing_offset": OFFSET, "kappa0": KAPPA, **PLANCK}
    for name in COEFFICIENTS:
        data = np.full((tiles, steps, len(bands)), values[name])
        group.create_array(name, data=data, dimension_names=("tile", "time", "band"))
    angles = np.full((tiles, steps, 4, 4), zenith, "f4")
    group.create_array("solar_zenith", data=angles, dimension_names=("tile", "time", "y_coarse", "x_coarse"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # says that v3 does not specify it yet
        zarr.consolidate_metadata(path)
    return path


def flat(value, size=SIZE):
    return np.full((size, size), value)


def reflective(reflectance, size=SIZE, zenith=30.0):
    return counts_of(flat(reflectance * np.cos(np.radians(zenith)) / KAPPA, size))


def picture_of(store, tmp_path, size=64):
    path = tmp_path / "pictures" / "tile.png"
    with open_raw(store) as data:
        caption = thumbnail(data, 1, path, size=size)
    with Image.open(path) as image:
        assert image.size == (size, size)
        assert image.mode == "RGBA"
        return np.asarray(image), caption


def test_day_is_natural_colour(tmp_path):
    red, near_infrared, blue = 0.25, 0.8, 0.04
    bands = {1: reflective(blue), 2: reflective(red), 3: reflective(near_infrared), 13: flat(100)}
    pixels, caption = picture_of(write_store(tmp_path / "s.zarr", bands), tmp_path)
    assert caption == "natural colour, step 1"
    red, blue = red - 0.03, 0.0  # haze: all of the dark band, and no more than its share of the bright one
    green = 0.45 * red + 0.1 * near_infrared + 0.45 * blue
    expected = np.array([red, green, blue]) ** (1 / 2.2) * 255
    assert np.abs(pixels[..., :3] - expected).max() <= 3
    assert (pixels[..., 3] == 255).all()


@pytest.mark.parametrize("lacking", ["sun", "red"])
def test_night_or_missing_band_is_infrared(tmp_path, lacking):
    kelvin = np.where(np.arange(SIZE) < SIZE // 2, 200.0, 300.0)
    bands = {c: reflective(0.5) for c in (1, 2, 3)}
    bands |= {7: flat(9), 13: counts_of(radiance_of(np.tile(kelvin, (SIZE, 1))))}
    if lacking == "red":
        del bands[2]
    zenith = 120.0 if lacking == "sun" else 30.0
    pixels, caption = picture_of(write_store(tmp_path / "s.zarr", bands, zenith=zenith), tmp_path)
    assert caption == "C13 brightness temperature, step 1"
    cold, warm = pixels[5, 5], pixels[5, -5]
    assert abs(int(cold[0]) - 255 * (310 - 200) / 115) < 2
    assert abs(int(warm[0]) - 255 * (310 - 300) / 115) < 2
    assert cold[0] == cold[1] == cold[2]


def test_nearest_emissive_band_is_taken(tmp_path):
    bands = {c: counts_of(radiance_of(flat(280.0))) for c in (8, 12, 14)}
    assert picture_of(write_store(tmp_path / "s.zarr", bands), tmp_path)[1] == ("C14 brightness temperature, step 1")


def test_first_band_when_there_is_no_other(tmp_path):
    ramp = np.tile(np.arange(SIZE) * 10, (SIZE, 1))
    pixels, caption = picture_of(write_store(tmp_path / "s.zarr", {4: ramp, 5: ramp}), tmp_path)
    assert caption == "C04 radiance, step 1"
    assert pixels[0, 0, 0] == 0
    assert pixels[0, -1, 0] == 255
    assert (np.diff(pixels[0, :, 0].astype(int)) >= 0).all()


def test_invalid_pixels_are_transparent_and_not_averaged_in(tmp_path):
    valid = np.ones((SIZE, SIZE), bool)
    valid[:10] = False
    valid[::2, ::2] = False  # half of each picture pixel below row 10
    image = counts_of(radiance_of(flat(250.0)))
    image[~valid] = 65535
    pixels, _ = picture_of(write_store(tmp_path / "s.zarr", {13: image}, valid=valid), tmp_path, size=16)
    assert (pixels[:5] == 0).all()
    assert (pixels[5:, :, 3] == 255).all()
    assert len(np.unique(pixels[5:, :, 0])) == 1


def test_step_with_pixels_is_taken(tmp_path):
    valid = np.zeros((STEPS, SIZE, SIZE), bool)
    valid[2] = True
    store = write_store(tmp_path / "s.zarr", {13: counts_of(radiance_of(flat(250.0)))}, valid=valid)
    assert picture_of(store, tmp_path)[1] == "C13 brightness temperature, step 2"


def test_empty_tile_gives_an_empty_picture(tmp_path):
    store = write_store(tmp_path / "s.zarr", {1: flat(3), 13: flat(3)})
    with open_raw(store) as data:
        assert thumbnail(data, 0, tmp_path / "t.png") == "no valid pixel"
    with Image.open(tmp_path / "t.png") as image:
        assert image.getextrema()[3] == (0, 0)


def test_native_grid_bands_are_laid_over_each_other(tmp_path):
    step = np.arange(2 * SIZE) < SIZE
    red = np.where(step, reflective(0.6, 2 * SIZE), reflective(0.1, 2 * SIZE))
    bands = {1: reflective(0.5), 2: red, 3: reflective(0.5), 13: flat(9, SIZE // 2)}
    pixels, caption = picture_of(write_store(tmp_path / "s.zarr", bands, native=True), tmp_path)
    assert caption.startswith("natural colour")
    edge = np.abs(np.diff(pixels[10, :, 0].astype(int))).argmax()
    assert edge == 31


def reads(store, tile, tmp_path, monkeypatch):
    """Array and byte range of each read of pixels that a thumbnail makes."""
    read = []
    plain = zarr.storage.LocalStore.get

    async def get(self, key, prototype=None, byte_range=None):
        read.append((key, byte_range))
        return await plain(self, key, prototype, byte_range)

    with open_raw(store) as data:
        monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
        thumbnail(data, tile, tmp_path / "t.png")
    return [(key.split("/")[0], part) for key, part in read if "/c/" in key]


def test_one_chunk_is_read_of_each_array(tmp_path, monkeypatch):
    bands = {c: reflective(0.3) for c in (1, 2, 3)} | {13: flat(9), 16: flat(9)}
    store = write_store(tmp_path / "s.zarr", bands, tiles=8)
    chunks = reads(store, 1, tmp_path, monkeypatch)
    assert {"C01", "C02", "C03", "valid"} <= {name for name, _ in chunks}
    assert not {"C13", "C16", "planck_fk1"} & {name for name, _ in chunks}
    images = [name for name, part in chunks if name.startswith("C") and part is not None]
    assert sorted(images) == ["C01", "C01", "C02", "C02", "C03", "C03"]  # the shard's index and one inner chunk
    assert len([name for name, _ in chunks if name.startswith("C")]) == 6


def test_no_band_is_read_of_an_empty_tile(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s.zarr", {1: flat(3), 13: flat(3)})
    assert not {"C01", "C13"} & {name for name, _ in reads(store, 0, tmp_path, monkeypatch)}


def test_contact_sheet(tmp_path):
    names = [f"goes16_M1_20200101T000000_r{i:05d}_c00128" for i in range(130)]
    tiles = pd.DataFrame({"tile_id": names, "event_time": pd.Timestamp("2020-01-01"), "stratum": "random"})
    for i, name in enumerate(names):
        Image.new("RGBA", (32, 32), (i, 255 - i, 7, 255)).save(tmp_path / f"{name}.png")
    sheet = tmp_path / "sheets" / "sheet.png"
    assert contact_sheet(tmp_path, tiles, sheet, cell=40) == 100
    with Image.open(sheet) as image:
        assert image.width == 10 * 48 + 8
        pixels = np.asarray(image)
    assert tuple(pixels[20, 20]) == (0, 255, 7)
    last = {tuple(int(v) for v in p) for p in pixels.reshape(-1, 3) if p[2] == 7}
    assert (129, 126, 7) in last
    assert len(last) == 100
    assert contact_sheet(tmp_path, tiles.head(3), sheet, cell=40, limit=2) == 2
    assert contact_sheet(tmp_path, tiles.head(0), tmp_path / "none.png") == 0
    assert not (tmp_path / "none.png").exists()


def test_captions_fit_their_cell(tmp_path):
    name = "goes16_M1_20200101T000000_r00256_c00128"
    tiles = pd.DataFrame({"tile_id": [name], "event_time": [pd.Timestamp("2020-01-01")], "stratum": ["random"]})
    Image.new("RGBA", (32, 32), (9, 9, 9, 255)).save(tmp_path / f"{name}.png")
    contact_sheet(tmp_path, tiles, tmp_path / "sheet.png", cell=80)
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels[90:, :].max() > 150
    assert pixels[90:, -7:].max() < 60


def test_pictures_are_deterministic(tmp_path):
    store = write_store(tmp_path / "s.zarr", {c: reflective(0.3) for c in (1, 2, 3)})
    written = []
    for name in ("a.png", "b.png"):
        with open_raw(store) as data:
            thumbnail(data, 1, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_the_clean_window_is_shown_before_others(tmp_path):
    kelvin = np.linspace(200, 300, SIZE)[:, None] + np.zeros((1, SIZE))
    bands = {c: counts_of(radiance_of(kelvin)) for c in (11, 13, 15)}
    _, caption = picture_of(write_store(tmp_path / "s.zarr", bands), tmp_path)
    assert caption == "C13 brightness temperature, step 1"
