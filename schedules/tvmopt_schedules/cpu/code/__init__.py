"""Reading and rewriting the loops of a kernel, whatever it computes."""
