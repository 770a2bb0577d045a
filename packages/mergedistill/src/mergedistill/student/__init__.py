"""The student: how it begins and what it minimises."""
