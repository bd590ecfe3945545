"""Operator definitions in TE: what a kernel computes, in the layout its schedule rule wants."""
