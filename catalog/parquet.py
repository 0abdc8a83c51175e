"""Reading Parquet tables, under the name it had."""

from stratacube.parquet import read_frame

__all__ = ["read_frame"]
