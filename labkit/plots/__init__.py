"""One picture each, drawn on an `Axes` from the frame that `Recorder.frame()` makes.

Every function takes `ax=None` and returns the `Axes`. Without one it makes a figure of its own that
belongs to nobody else (no pyplot, which keeps every figure). Times on the axes are shop seconds
since the first customer came, else since the frame's first event. `show(ax, alt="...")` puts the picture into a notebook.
"""

from labkit.plots.deliveries import deliveries
from labkit.plots.distributions import completion_against_response, ecdf
from labkit.plots.gantt import gantt
from labkit.plots.outcomes import outcomes
from labkit.plots.queues import backlog
from labkit.plots.sequences import costs_of_order, sequence
from labkit.plots.showing import png, show
from labkit.plots.style import COLOURS, OUTCOMES, new_axes
from labkit.plots.swimlanes import swimlanes
from labkit.plots.timeline import response_timeline
from labkit.plots.topology import topology
from labkit.plots.totals import totals

__all__ = [
    "COLOURS",
    "OUTCOMES",
    "backlog",
    "completion_against_response",
    "costs_of_order",
    "deliveries",
    "ecdf",
    "gantt",
    "new_axes",
    "outcomes",
    "png",
    "response_timeline",
    "sequence",
    "show",
    "swimlanes",
    "topology",
    "totals",
]
