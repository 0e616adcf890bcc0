"""A layer's features in the fast path: readers of one number each, and writers of one direction each.

They are to the stack what a layer of heads is, of width 1, with a function of their own projection in attention's
place; so everything that reads, writes and differentiates heads serves them too.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from edgewise.engine._plan import FeaturePlan
from edgewise.engine._reads import BlockRead, ReadRun
from edgewise.engine._stack import HeadSlots
from edgewise.engine.features._layers import FeatureLayer, FeatureRun, activate
from edgewise.models import Norm, Parts
from edgewise.models.block import FoldedHeads, centre
from edgewise.transcoders import norm_before


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """The weights of a layer's features, arranged as a block of heads of width 1."""

    readers: FoldedHeads
    output: Float[Tensor, "n 1 D"]
    """Decoder rows; centred where norms are layer norms, as is all that is written."""

    @staticmethod
    def of(parts: Parts, features: FeatureLayer) -> "FeatureBlock":
        """With everything between the stream and the encoder that is linear folded into the encoder."""
        site = features.transcoder.spec.reads
        norm = norm_before(features.layer, site.kind) or Norm.none()
        weight, bias = features.encoder, features.encoder_bias
        if features.input_bias is not None:
            bias = bias - weight @ features.input_bias
        weight = centre(weight) if site.centred else weight  # ⟨w, x − mean(x)⟩ = ⟨w − mean(w), x⟩
        bias = bias if norm.bias is None else bias + weight @ norm.bias
        weight = weight if norm.gain is None else weight * norm.gain
        decoder = centre(features.decoder) if parts.final_norm.kind == "layer" else features.decoder
        return FeatureBlock(FoldedHeads(norm, weight[:, :, None], bias[:, None]), decoder[:, None])

    def slots(self, plan: FeaturePlan) -> HeadSlots:
        """The running features among the live writers."""
        return HeadSlots(plan.slots, self.output[plan.readers], None)

    def forward(self, read: BlockRead, plan: FeaturePlan, fixed: FeatureRun) -> ReadRun:
        """Run the features that are alive, and write them; what the backward needs comes back."""
        run, _ = read.forward()
        active = activate(run.projected[..., 0], _columns(fixed.bound, plan))
        difference = active - fixed.ablated[:, plan.readers].T  # (n, N)
        read.stack.write_heads(self.slots(plan), difference[..., None])
        return run

    def backward(
        self, read: BlockRead, plan: FeaturePlan, fixed: FeatureRun, run: ReadRun, *, all_edges: bool
    ) -> Float[Tensor, "CP n w"]:
        """Carry the gradients of what the features wrote back to earlier writers and to the masks of their inputs,
        which come back for each running feature and live writer. Every later reader must have been walked.
        """
        gradient = read.stack.gradient_heads(self.slots(plan))  # (n, N, 1)
        on = run.projected[..., 0] > _columns(fixed.bound, plan)
        return read.backward(run, gradient * on[..., None], all_edges=all_edges)


def _columns(bound: Float[Tensor, "N m"], plan: FeaturePlan) -> Float[Tensor, "_ N"]:
    """The running features' bounds; one row if all have the same."""
    return (bound if bound.shape[1] == 1 else bound[:, plan.readers]).T
