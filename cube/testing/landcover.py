"""Land cover as MODIS delivers it: MCD12C1 in HDF4, as small as wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["write_mcd12c1"]

_STRUCTURE = """GROUP=SwathStructure
END_GROUP=SwathStructure
GROUP=GridStructure
\tGROUP=GRID_1
\t\tGridName="MCD12C1"
\t\tXDim={columns}
\t\tYDim={rows}
\t\tUpperLeftPointMtrs=(-180000000.000000,90000000.000000)
\t\tLowerRightMtrs=(180000000.000000,-90000000.000000)
\t\tProjection=GCTP_GEO
\tEND_GROUP=GRID_1
END_GROUP=GridStructure
END
"""


def write_mcd12c1(path: str | Path, classes: npt.NDArray[np.uint8]) -> Path:
    """Write a file of majority classes over the whole Earth.

    Parameters
    ----------
    path : str or Path
        The file.
    classes : ndarray of uint8, shape (rows, columns)
        IGBP classes, 0 water, 255 unclassified; north-west first. Real files have 3600 x 7200.

    Returns
    -------
    Path
        Of the file.
    """
    from pyhdf.SD import SD, SDC  # noqa: PLC0415  (an extra)

    rows, columns = classes.shape
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    file = SD(str(target), SDC.WRITE | SDC.CREATE | SDC.TRUNC)
    try:
        data = file.create("Majority_Land_Cover_Type_1", SDC.UINT8, (rows, columns))
        data.setfillvalue(255)
        data[:] = np.ascontiguousarray(classes, "u1")
        data.endaccess()
        text = file.attr("StructMetadata.0")
        text.set(SDC.CHAR, _STRUCTURE.format(rows=rows, columns=columns))
    finally:
        file.end()
    return target
