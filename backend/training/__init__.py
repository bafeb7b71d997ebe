"""The programs people run: train, sample, bench."""
