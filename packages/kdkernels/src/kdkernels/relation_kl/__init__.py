"""Kullback-Leibler divergence of two self-relation maps (MiniLMv2)."""
