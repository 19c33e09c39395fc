"""Rewards: a completion's text -> a verdict on its answer -> the reward of the sample."""
