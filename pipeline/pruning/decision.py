"""What pruning did to one layer, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LayerDecision(BaseModel):
    """One for every layer of the model, also for those left alone; for each kernel where a layer has several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = Field(
        description="its name; of one of several kernels that of the kernel, 'lstm/recurrent_kernel'"
    )
    kind: str = Field(description="the Keras class")
    action: Literal["pruned", "units removed", "kept"]
    reason: str = Field(description="a sentence")
    weights_before: int = Field(
        ge=0, description="nonzero kernel weights; biases and normalisation do not count"
    )
    weights_after: int = Field(ge=0)
    units_before: int | None = None
    units_after: int | None = None
    loss_increase: float | None = Field(
        None,
        description="estimate: what removing adds to the layer's mean squared output error, summed over its outputs, "
        "beyond that of the best dense weights for the inputs it now gets",
    )
    damping: float | None = Field(None, description="lambda, added to the diagonal of the layer's Hessian")
