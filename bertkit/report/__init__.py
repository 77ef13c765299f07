"""The HTML report of an evaluation: one page that loads nothing, made from predictions and the truth as plain rows.

:func:`page` puts the parts together, :func:`suite` those of several runs. What a task type has to show is made by the
module of its *form* (``classes``, ``labels``, ``numbers``, ``tags``, ``spans``), from the columns that
``Adapter.outcomes`` gives. None of it needs torch.
"""

from bertkit.report.page import Evaluation, page
from bertkit.report.suite import Compared, Suite, suite

__all__ = ["Compared", "Evaluation", "Suite", "page", "suite"]
