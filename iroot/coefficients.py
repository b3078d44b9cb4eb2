"""Named tables of odd quintics s -> a s + b s^3 + c s^5 for the polar iteration, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from iroot.errors import InvalidInputError, UnknownNameError

OddQuintic = tuple[float, float, float]
"""(a, b, c) of a s + b s^3 + c s^5."""


MadeFor = Literal["aol", "square", "gram", "frobenius"]
"""The normalisation whose output a table was made for: rescaled rows, or one of the scalar bounds."""


@dataclass(frozen=True, kw_only=True)
class NamedTable:
    """A table of odd quintics: published, shipped or tuned.

    Attributes:
        coefficients: (a, b, c) per step, as published.
        lower: smallest singular value the table was made for (largest 1), or None where its source states none.
        safety: deflation the source applies to all but the last step when it uses the table.
        limit: the triple used for steps beyond the table, or None: it ends there.
        made_for: what was done to the input that its source tuned or derived it for.
    """

    name: str
    coefficients: tuple[OddQuintic, ...]
    lower: float | None
    safety: float
    limit: OddQuintic | None
    source: str
    made_for: MadeFor = "frobenius"

    def take(self, steps: int | None = None) -> tuple[OddQuintic, ...]:
        """The first `steps` triples (default: the whole table), deflated by `safety` except the last one.

        Raises:
            InvalidInputError: `steps` is below 1, or beyond a table without a limit.
        """
        count = len(self.coefficients) if steps is None else steps
        if count < 1 or (count > len(self.coefficients) and self.limit is None):
            raise InvalidInputError(f"table '{self.name}' has {len(self.coefficients)} steps, got steps={steps}")
        tail = () if self.limit is None else (self.limit,) * max(0, count - len(self.coefficients))
        *body, last = (*self.coefficients, *tail)[:count]
        return (*(deflate(triple, self.safety) for triple in body), last)


def deflate(triple: OddQuintic, safety: float) -> OddQuintic:
    """The quintic at s / safety: (a / safety, b / safety^3, c / safety^5)."""
    a, b, c = triple
    return a / safety, b / safety**3, c / safety**5


NAMED_TABLES: dict[str, NamedTable] = {
    table.name: table
    for table in (
        NamedTable(
            name="keller_jordan", coefficients=((3.4445, -4.7750, 2.0315),) * 5, lower=None, safety=1.0,
            limit=(3.4445, -4.7750, 2.0315),
            source="K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; 5 steps of one "
            "quintic tuned for slope at 0, range about [0.7, 1.2]",
        ),
        NamedTable(
            name="jiacheng_you",
            coefficients=(
                (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
                (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012),
            ),
            lower=None, safety=1.0, limit=None,
            source="Jiacheng You, 2025, five quintics tuned together, as shipped by Dion and modded-nanogpt",
        ),
        NamedTable(
            name="turbo_muon",
            coefficients=(
                (4.6051, -9.6552, 5.6769), (4.7505, -6.0861, 2.1790), (2.7763, -2.3190, 0.5523),
                (2.4231, -2.2861, 0.8193),
            ),
            lower=None, safety=1.0, limit=None, made_for="aol",
            source="Boissin, Massena, Mamalet, Serrurier, Turbo-Muon, 2025, arXiv 2512.04632; four quintics searched "
            "for input with rows rescaled by AOL",
        ),
        NamedTable(
            name="polar_express",
            coefficients=(
                (8.28721201814563, -23.595886519098837, 17.300387312530933),
                (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
                (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                (2.300652019954817, -1.6689039845749493, 0.4188073119525673),
                (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
                (1.875, -1.25, 0.375),
            ),
            lower=1e-3, safety=1.01, limit=(1.875, -1.25, 0.375),
            source="Amsel, Persson, Musco, Gower, The Polar Express, 2025, arXiv 2505.16932; "
            "cushion 0.02407327424182761 in sigma",
        ),
    )
}  # fmt: skip
"""Published tables by name; the only place that holds such coefficients."""


def named_table(name: str) -> NamedTable:
    """The published table called `name`; raises UnknownNameError with the nearest valid name."""
    try:
        return NAMED_TABLES[name]
    except KeyError:
        raise UnknownNameError("coefficient table", name, NAMED_TABLES) from None
