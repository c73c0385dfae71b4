"""What a trained model knows of positions."""
