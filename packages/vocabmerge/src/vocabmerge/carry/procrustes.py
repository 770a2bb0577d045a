"""Turns one teacher's space onto another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """x ↦ scale · (x − centre) Q + target_centre, with Q [E, E_target] orthogonal (semi-orthogonal if widths differ).

    Args:
        rotation: Q.
        scale: of lengths.
        centre: mean of the teacher's anchors [E].
        target_centre: mean of the target's anchors [E_target].
    """

    rotation: torch.Tensor
    scale: float
    centre: torch.Tensor
    target_centre: torch.Tensor

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Teacher rows [N, E] in the target's space [N, E_target], in fp32."""
        return self.scale * (rows.float() - self.centre) @ self.rotation + self.target_centre


def procrustes(teacher: torch.Tensor, target: torch.Tensor) -> Alignment:
    """The rotation, scale and shift that take the teacher's anchors closest to the target's (Schönemann 1966).

    Minimises `‖scale · (A − mean A) Q − (B − mean B)‖` over orthogonal Q: with the singular value decomposition
    U S Vᵀ of (A − mean A)ᵀ (B − mean B), Q = U Vᵀ and scale = Σ S / ‖(A − mean A) Q‖².

    Args:
        teacher: anchor rows A [M, E].
        target: the same anchors' rows B [M, E_target].
    """
    import torch

    centre, target_centre = teacher.float().mean(dim=0), target.float().mean(dim=0)
    centred = (teacher.float() - centre).double()
    product = centred.T @ (target.float() - target_centre).double()
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    rotation = left @ right
    length = float((centred @ rotation).square().sum())
    return Alignment(
        rotation=rotation.float(),
        scale=float(values.sum()) / length if length else 1.0,
        centre=centre,
        target_centre=target_centre,
    )
