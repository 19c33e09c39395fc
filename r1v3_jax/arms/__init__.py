"""Runs that differ in one field, from one start, with several seeds, compared on one set."""
