"""How units pass through each kind of layer: a table of rules by the name of the Keras class, a file a family.

A rule gets a `Site`, one call of one layer. Where it cannot show that removed units are masked units, it raises
`NotFollowedError`, and the layer is left whole.
"""

from __future__ import annotations

from pipeline.pruning.surgery.flow import Rule
from pipeline.pruning.surgery.rules import attention, joins, kernels, recurrent, shapes, unitwise

RULES: dict[str, Rule] = {
    **unitwise.RULES,
    **kernels.RULES,
    **recurrent.RULES,
    **attention.RULES,
    **shapes.RULES,
    **joins.RULES,
}
