"""Tiny teachers, trained from nothing for tests and demonstrations."""
