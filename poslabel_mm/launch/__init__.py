"""How MMPretrain's tools are run: in this process or in several, after checks."""
