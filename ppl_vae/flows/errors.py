"""What a layer raises when its numbers have gone."""

from __future__ import annotations


class NonFiniteContribution(ValueError):
    """A layer put out a NaN or an infinity; raised where torch's argument validation is on.

    Attributes:
        layer: which layer, as a path from the layer that was called: ``layers.2 (AffineCoupling)``.
        way: "encode" or "decode".
    """

    def __init__(self, layer: str, way: str = "") -> None:
        super().__init__(layer, way)
        self.layer, self.way = layer, way
        if not way:  # Pyro makes an error anew from its text, to which it adds the shapes of the sites
            self.layer = layer.partition(": finite values")[0]
            self.way = "decode" if "infinity in decode" in layer else "encode"

    def __str__(self) -> str:
        if not self.args[1]:
            return str(self.args[0])
        return (
            f"{self.layer}: finite values and a finite contribution are required, "
            f"got a NaN or an infinity in {self.way}"
        )
