"""Pictures of what was learned. Arrays in, matplotlib figures out; `look*.py` is the command."""
