"""Divergence from an online teacher, both output projections fused."""
