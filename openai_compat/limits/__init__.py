"""How much may be asked at once and in a minute: ``Client(limits=...)``."""
