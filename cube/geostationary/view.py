"""The grid of 1 km as a view: pixels of 2 km, which a store holds once, repeated when they are looked at."""

from __future__ import annotations

from typing import Any

import xarray as xr

from cube.geostationary.resample import repeat

__all__ = ["on_grid"]


def on_grid(data: xr.Dataset, stored: xr.Dataset) -> xr.Dataset:
    """Bring all bands and masks of an opened store to its grid, lazily where they are lazy.

    Parameters
    ----------
    data
        Bands, decoded or not, on the dimensions they are stored with, and masks.
    stored
        The store as it is: its attribute ``store`` tells whether its grid is a view, and ``repeat`` of its arrays how
        often a pixel of theirs repeats along either side.

    Returns
    -------
    Dataset
        As ``data`` of a store whose bands were repeated when it was made, with the masks it would have. Bands finer
        than the grid stay as they are.
    """
    if stored.attrs.get("store") != "native":
        return data
    held = {str(n): variable for n, variable in stored.data_vars.items() if n in data and "repeat" in variable.attrs}
    masks: dict[str, list[xr.DataArray]] = {}
    bands = {}
    for name, variable in held.items():
        times, suffix = int(variable.attrs["repeat"]), str(variable.dims[-1]).removeprefix("x")
        if times == 1 and suffix:
            continue
        fine = _repeated(data[name], times)
        if "flag_masks" in variable.attrs:
            masks.setdefault(name.replace(suffix, "", 1), []).append(fine)
            data = data.drop_vars(name)
            continue
        if "ancillary_variables" in fine.attrs:
            fine.attrs["ancillary_variables"] = variable.attrs["ancillary_variables"].replace(suffix, "", 1)
        bands[name] = fine
    return data.assign({**bands, **{name: _joined(parts) for name, parts in masks.items()}})


def _repeated(array: xr.DataArray, times: int) -> xr.DataArray:
    """Repeat the pixels of an array along both axes, onto the dimensions of the grid."""
    rows, columns = map(str, array.dims[-2:])
    fine = rows.partition("_")[0], columns.partition("_")[0]
    if times > 1:
        sizes = {new: array.sizes[old] * times for new, old in zip(fine, (rows, columns), strict=True)}
        array = xr.apply_ufunc(
            repeat,
            array,
            times,
            input_core_dims=[[rows, columns], []],
            output_core_dims=[fine],
            dask="parallelized",
            output_dtypes=[array.dtype],
            dask_gufunc_kwargs={"output_sizes": sizes, "allow_rechunk": True},
            keep_attrs=True,
        )
    array = array.copy(deep=False)
    if "pixel_urad" in array.attrs:  # of a band as it is stored
        kept = {key: value for key, value in array.attrs.items() if key != "comment" or times == 1}
        array.attrs = {**kept, "repeat": 1, "pixel_urad": array.attrs["pixel_urad"] / times}
    return array


def _joined(masks: list[xr.DataArray]) -> xr.DataArray:
    """One mask of several, each with the bits of other bands."""
    joined = masks[0]
    for mask in masks[1:]:
        joined = joined | mask
    told: list[tuple[Any, str]] = []
    for mask in masks:
        told += zip(mask.attrs["flag_masks"], mask.attrs["flag_meanings"].split(), strict=True)
    told.sort()
    joined.attrs = {
        **{key: value for key, value in masks[0].attrs.items() if key not in ("repeat", "comment")},
        "flag_masks": [bit for bit, _ in told],
        "flag_meanings": " ".join(name for _, name in told),
    }
    return joined
