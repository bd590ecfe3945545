"""Schedule rules of the x86 backend."""
