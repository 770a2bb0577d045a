"""What a model costs: parameters, bytes, operations, time."""
