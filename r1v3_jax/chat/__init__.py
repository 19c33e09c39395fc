"""A chat in the terminal, and answers to files of questions."""
