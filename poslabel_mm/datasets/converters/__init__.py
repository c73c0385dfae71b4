"""How each dataset is brought into the layout that the configs read: one converter a file."""
