"""Phase 2: a student is adapted to a task under a teacher that was tuned for it."""
