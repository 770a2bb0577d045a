"""Mean squared difference of two attention maps (BiStil's attention term)."""
