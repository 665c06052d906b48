"""Jupyter: answers that appear in a notebook while they come, and the cell magic ``%%chat``.

::

    client.chat("Why is the sky blue?", sink=NotebookSink())

    %load_ext openai_compat.integrations.jupyter

Needs ``pip install 'openai-compat[jupyter]'``. In plain IPython and in a terminal the same code prints the text.
"""

from .magic import load_ipython_extension, unload_ipython_extension
from .sink import NotebookSink

__all__ = ["NotebookSink", "load_ipython_extension", "unload_ipython_extension"]
