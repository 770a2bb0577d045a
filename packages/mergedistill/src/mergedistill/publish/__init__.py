"""What leaves with a student: its card, the curves of its training, the upload."""
