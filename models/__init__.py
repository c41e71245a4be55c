"""What is trained on stored features, one file per published system."""
