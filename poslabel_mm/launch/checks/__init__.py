"""What is wrong with a run, found before it makes anything."""
