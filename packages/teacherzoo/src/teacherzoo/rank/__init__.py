"""How good each teacher is at each language, in bits per byte."""
