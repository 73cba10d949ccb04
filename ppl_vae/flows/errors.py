"""What a layer raises when its numbers have gone."""

from __future__ import annotations


class NonFiniteContribution(ValueError):
    """A layer put out a NaN or an infinity; raised where torch's argument validation is on.

    Attributes:
        layer: which layer, as a path from the layer that was called: ``layers.2 (AffineCoupling)``.
        way: "encode" or "decode".
    """

    def __init__(self, layer: str, way: str) -> None:
        super().__init__(layer, way)
        self.layer, self.way = layer, way

    def __str__(self) -> str:
        return (
            f"{self.layer}: finite values and a finite contribution are required, "
            f"got a NaN or an infinity in {self.way}"
        )
