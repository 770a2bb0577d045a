"""Scoring models on the test sets of many languages, and the whole protocol from models to results."""
