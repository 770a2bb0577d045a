"""A model folder as a graph: what goes into it, its float32 file, and that file asked and compared with torch."""
