"""What a smaller graph loses against the float32 one, on text and on test sets, and the variant that loses little enough."""
