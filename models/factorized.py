"""Does a decoder factorize over the latents? Looked at, not believed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppl_vae.nn import mode_of

_TOLERANCE = 1e-4


def require_factorized(
    decoder: nn.Module, embed: Callable[[Tensor], Tensor], num_latents: int, *, device: torch.device, who: str
) -> None:
    """Change one latent at a time, and see that no output of another latent moves.

    Args:
        decoder: maps (B, M, E) to (B, M, *part); called in evaluation mode, which is given back.
        embed: from codes (B, M) long to the decoder's input (B, M, E).
        num_latents: M.
        device: of the codes.
        who: whose error it is.

    Raises:
        ValueError: the output is not (B, M, ...), or output j moves with latent m != j.
    """
    # Row 0: class 0 everywhere; row 1 + m: class 1 at latent m.
    codes = torch.cat([torch.zeros(1, num_latents), torch.eye(num_latents)]).long().to(device)
    with torch.no_grad(), mode_of([decoder], training=False):
        output = decoder(embed(codes))
    if output.shape[:2] != codes.shape:
        raise ValueError(
            f"{who}: with factorized=True the decoder must return (B, {num_latents}, ...), one part a latent, "
            f"got {tuple(output.shape)} for B={num_latents + 1}"
        )
    moved = (output[1:] - output[:1]).abs().flatten(2).amax(-1)  # (changed latent, output)
    moved = moved > _TOLERANCE * (1 + output.abs().max())
    wrong = (moved & ~torch.eye(num_latents, dtype=torch.bool, device=moved.device)).nonzero()
    if len(wrong):
        latent, part = wrong[0].tolist()
        raise ValueError(
            f"{who}: with factorized=True output m of the decoder must depend on latent m alone, but output {part} "
            f"moves with latent {latent}"
        )
