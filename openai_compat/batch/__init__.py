"""Many requests at once: ``client.map``."""
