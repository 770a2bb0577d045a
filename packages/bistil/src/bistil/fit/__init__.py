"""A model of a budget: what each part of it is worth is measured, shapes within the budget are tried, and the best is made."""
