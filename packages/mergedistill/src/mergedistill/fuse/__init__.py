"""Merging in weight space: models of one architecture and one vocabulary become one, without training."""
