"""Distillation from a top-k list, on logits at hand."""
