"""What a scheduler or a person starts: one thin module per verb, and the command line."""
