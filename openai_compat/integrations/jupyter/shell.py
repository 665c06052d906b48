"""What IPython's shell tells: whether there is a notebook, and which of its cells is meant."""

from __future__ import annotations

import sys
from typing import Any


def ipython() -> Any:
    """IPython's shell; None where there is none."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def redraws(shell: Any) -> bool:
    """Whether the shell's frontend shows HTML and changes outputs, as far as the shell can tell."""
    kinds = {kind.__name__ for kind in type(shell).__mro__}
    return shell is not None and not kinds & {"TerminalInteractiveShell", "SpyderShell"}


def current_cell(shell: Any) -> str | None:
    """Which cell's outputs this thread makes: in a terminal its number; None where there is no IPython."""
    header = getattr(getattr(shell, "display_pub", None), "parent_header", None)
    return header.get("msg_id") if header is not None else _number(shell)


def cell_of_result() -> str | None:
    """Which cell's result is being shown right now; an empty string where it is known not to be a result."""
    shell = ipython()
    if not hasattr(shell.display_pub, "parent_header"):
        return _number(shell)
    result = getattr(shell.displayhook, "msg", None) or {"parent_header": {}}
    return str(result["parent_header"].get("msg_id", ""))


def _number(shell: Any) -> str | None:
    return None if shell is None else f"In [{shell.execution_count}]"


def in_output_widget(cell: str | None) -> bool:
    """Whether an ``ipywidgets.Output`` takes what this cell shows: it takes outputs, but no changes of them."""
    widgets = sys.modules.get("ipywidgets")
    if widgets is None or cell is None:
        return False
    made = getattr(sys.modules.get("ipywidgets.widgets.widget"), "_instances", {})
    return any(isinstance(one, widgets.Output) and one.msg_id == cell for one in list(made.values()))


def cell_of_other_threads(shell: Any) -> Any:
    """The header of this cell's message, for use on other threads; None where ipykernel (7) passes it on by itself."""
    publisher = getattr(shell, "display_pub", None)
    return None if hasattr(publisher, "set_thread_parent") else getattr(publisher, "parent_header", None) or None
