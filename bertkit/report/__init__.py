"""The HTML report of an evaluation: one page that loads nothing, made from predictions and the truth as plain rows.

:func:`page` puts the parts together. What a task type has to show is made by the module of its *form* (``classes``,
``labels``, ``numbers``, ``tags``, ``spans``), from the columns that ``Adapter.outcomes`` gives. None of it needs torch.
"""

from bertkit.report.page import Evaluation, page

__all__ = ["Evaluation", "page"]
