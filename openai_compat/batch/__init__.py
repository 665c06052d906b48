"""Many requests: ``client.map``, its results, its journal and its progress bar."""

from .journal import Journal, JournalError
from .result import MapResult
from .run import MapRun

__all__ = ["Journal", "JournalError", "MapResult", "MapRun"]
