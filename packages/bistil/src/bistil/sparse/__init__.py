"""Sparse differences of models: their files, applied, combined and carried to trimmed vocabularies."""
