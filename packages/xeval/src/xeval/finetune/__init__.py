"""Fine-tuning an encoder with a task's head on the source language, and the folder that is kept of it."""
