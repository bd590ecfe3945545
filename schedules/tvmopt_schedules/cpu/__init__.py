"""What all CPUs with vector registers share, with their registers, lanes and caches as parameters."""
