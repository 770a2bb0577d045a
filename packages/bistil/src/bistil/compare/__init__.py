"""Systems beside each other: a recipe's students, each made once, tuned and scored alike."""
