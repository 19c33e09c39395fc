"""Verifiers, one rule a file: does a box hold the reference answer?"""
