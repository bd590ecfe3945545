"""What all CPUs with vector registers share; their registers, lanes and caches are parameters."""
