"""Offline reinforcement learning on logged data: what is learned from (`transitions`)."""
