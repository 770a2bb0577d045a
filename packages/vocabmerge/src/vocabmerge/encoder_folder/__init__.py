"""Folders of encoders: which kind of model lies in one, and what a smaller vocabulary changes in its files."""
