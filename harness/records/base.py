"""What every record is built on."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

SCHEMA_VERSION = 1
"""Version of the records in shard files and exported runs; raised on any incompatible change."""


class Record(BaseModel):
    """Base: frozen, closed, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class GrownRecord(Record):
    """A record of official baselines, or of a store that older versions read, that got fields later on: `LATER`.

    They are left out of its JSON where they hold their defaults: the lines of a baseline keep their bytes until their
    cases are promoted anew.
    """

    LATER: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        made: dict[str, Any] = handler(self)
        for name in self.LATER:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                made.pop(name, None)
        return made
