"""A vocabulary cut down to what texts need, and the model cut with it."""
