"""One set-up of Trainer for every training of the packages above."""
