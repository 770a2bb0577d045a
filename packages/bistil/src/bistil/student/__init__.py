"""The student before training: which layers it takes, and how narrow ones are made of wide ones."""
