"""Metrics from per-item sums, results on disk, and what differences between models are worth."""
