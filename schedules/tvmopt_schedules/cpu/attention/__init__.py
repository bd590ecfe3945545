"""Scaled-dot-product attention as one kernel."""
