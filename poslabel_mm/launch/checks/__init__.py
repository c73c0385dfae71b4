"""Checks of a run before it makes anything: its data, checkpoints, schedule and options."""
