"""Divergence between two sets of logits at hand."""
