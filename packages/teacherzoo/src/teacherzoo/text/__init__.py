"""Corpora, documents, blocks of tokens and their masks."""
