"""Masks for pictures, by one trained network or by several together."""
