"""What every record is built on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1
"""Version of the records in shard files and exported runs; raised on any incompatible change."""


class Record(BaseModel):
    """Base: frozen, closed, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
