"""Jupyter: ``NotebookSink``, and the extension with the cell magic ``%%chat``."""

from .sink import NotebookSink, load_ipython_extension, unload_ipython_extension

__all__ = ["NotebookSink", "load_ipython_extension", "unload_ipython_extension"]
