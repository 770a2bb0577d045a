"""What a teacher said at masked positions: recorded, coded, read, verified."""
