"""Benchmarks of training steps and of the relative loss, and the tables of their CSVs."""
