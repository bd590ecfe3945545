"""Convolutions and pooling on blocked channels."""
