"""Opens parquet files, and tells which of their columns can hold images."""

from __future__ import annotations

from typing import Any

from selfe.data.readers.cells import IMAGE_NAMES
from selfe.data.readers.locations import require_file
from selfe.text import first_line


def image_columns(path: str) -> list[str]:
    """Columns under a usual name whose type can hold an image.

    Raises:
        ValueError: if the file is missing or not parquet.
    """
    with open_parquet(path) as file:
        return [
            name for name in columns_of_images(file.schema_arrow) if name.lower() in IMAGE_NAMES
        ]


def columns_of_images(schema: Any) -> list[str]:
    """Columns of an Arrow schema whose type can hold an image."""
    import pyarrow.types as kinds

    def holds(kind: Any) -> bool:
        if kinds.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0
        return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)

    return [field.name for field in schema if holds(field.type)]


def open_parquet(path: str) -> Any:
    """A memory-mapped `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: if the file is missing or not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    require_file(path)
    try:
        file = pyarrow.parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        _ = file.schema_arrow.names  # of a damaged footer, bytes that are no text
        return file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as parquet ({first_line(error)}): fetch it again"
        ) from None
