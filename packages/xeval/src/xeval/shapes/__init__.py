"""What several tasks have in common: one label per word, one label per text."""
