"""Lottery-ticket sparse fine-tuning: train, choose the entries that moved most, rewind, train those alone."""
