"""The student's training: the order of batches, the trainer, the held-out text."""
