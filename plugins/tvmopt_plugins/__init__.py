"""First-party plugins: one folder each; none imports another."""
