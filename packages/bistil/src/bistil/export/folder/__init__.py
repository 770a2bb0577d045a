"""The folder in which a graph is served: its layout, its card, and the program beside it."""
