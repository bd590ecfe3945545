"""Networks that are trained within minutes on data that come with packages."""
