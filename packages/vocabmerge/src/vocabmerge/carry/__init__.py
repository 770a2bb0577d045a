"""Embedding rows of new pieces, made of the rows of other vocabularies."""
