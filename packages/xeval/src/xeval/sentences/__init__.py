"""Texts to vectors and to scores, as a model itself says how: sentence encoders, rerankers, and any other encoder."""
