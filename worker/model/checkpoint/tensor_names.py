"""What tensors are called in a file and in the network, and which ones the network has no use for.

Trainers wrap networks and save them whole: `module.transformer.h.0…`, `base_model.model.…`, or
without `transformer.`. Other heads and saved buffers lie beside the weights.
"""

import re
from collections.abc import Collection

BODY = "transformer."
_HEAD = "lm_head."
_ANCHOR = "ln_f.weight"  # every Falcon has it once, at the root of its body
_BODY_ROOTS = ("word_embeddings.", "h.", "ln_f.")

_BUFFERS = re.compile(
    r"\.(inv_freq|masked_bias|causal_mask|position_ids|cos_cached|sin_cached|alibi|slopes"
    r"|(self_attention|attention|attn)\.bias)$"
)


class TensorNames:
    """Translates the names of one checkpoint to those of the network."""

    def __init__(self, stored: Collection[str]) -> None:
        anchors = [name for name in stored if f".{name}".endswith(f".{_ANCHOR}")]
        whole = min(anchors, key=lambda name: (name != BODY + _ANCHOR, len(name)), default=None)
        self._body = BODY if whole is None else whole.removesuffix(_ANCHOR)
        self._outer = self._body.removesuffix(BODY)

    def translate(self, stored: str) -> str:
        """The name in the network; a name of nothing in it comes back as it is."""
        if stored.startswith(self._body) and self._body:
            return BODY + stored.removeprefix(self._body)
        if not self._body and stored.startswith(_BODY_ROOTS):
            return BODY + stored
        return stored.removeprefix(self._outer)


def is_stray(name: str) -> bool:
    """Whether a tensor changes nothing: it belongs to another head, or is a buffer."""
    return not name.startswith((BODY, _HEAD)) or _BUFFERS.search(name) is not None
