"""Cross-sample attention (CATT): tokens meet the tokens of their own sample, and a dictionary that stands for all others.

Paper      Yang et al., "Causal Attention for Vision-Language Tasks", CVPR 2021 (arXiv 2103.03493), in-sample and cross-sample attention.
Official   yangxuntu/lxmertcatt
Formula    Z = softmax(s · Q Kᵀ) V;  X = softmax(s · Q' K_Dᵀ) V_D, keys and values of the second made from a dictionary D of K entries
Differs    A log-prior over entries can be added to the second logits; then an entry counts as often as it occurred, the P(X = x) of the paper's front-door
           formula. Off by default, as in the official code, which has none.
Note       The paper reads Z and X as the two expectations of a front-door adjustment. The formula needs P(X = x) for X; what is computed is a distribution that
           depends on the query, over entries that the task loss trains. It is a learned memory that is read by the input; nothing makes it an intervention.
           X of a token depends on that token alone. Where all queries are equal, X is a constant vector.
Status     outputs and gradients equal to the official layer's

Shapes     B batch, H heads, Nq queries, Nk keys, D head width, Dv value width, K entries of the dictionary
"""

import torch
from torch import Tensor

from .._fx import leaf
from .softmax import softmax_attention, softmax_attention_map, softmax_attention_reference

__all__ = ["cross_sample_attention", "cross_sample_attention_maps", "cross_sample_attention_reference"]


@leaf
def cross_sample_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    dictionary_k: Tensor,
    dictionary_v: Tensor,
    q_cross: Tensor | None = None,
    mask: Tensor | None = None,
    dictionary_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Both attentions, through PyTorch's fused kernel.

    Args:
        q: queries, ``(B, H, Nq, D)``.
        k: keys of the sample, ``(B, H, Nk, D)``.
        v: values of the sample, ``(B, H, Nk, Dv)``.
        dictionary_k: keys of the dictionary, ``(B or 1, H, K, D)``: one dictionary for all samples, or what a layer below made of it for each.
        dictionary_v: its values, ``(B or 1, H, K, Dv)``.
        q_cross: queries to the dictionary, ``(B, H, Nq, D)``; ``q`` if None.
        mask: of the sample's tokens, bool (True takes part) or float, broadcastable to ``(B, H, Nq, Nk)``. It does not touch the dictionary.
        dictionary_mask: the same for entries, broadcastable to ``(B, H, Nq, K)``. A log-prior is such a float mask.
        is_causal: a query looks only at tokens up to its own position; at all of the dictionary.
        dropout_p: dropout on both maps, drawn independently.
        scale: factor on the logits; ``D ** -0.5`` if None.

    Returns:
        In-sample and cross-sample, each ``(B, H, Nq, Dv)``.
    """
    own = softmax_attention(q, k, v, mask=mask, is_causal=is_causal, dropout_p=dropout_p, scale=scale)
    q_cross = q if q_cross is None else q_cross
    entries, values = (part.expand(q.shape[0], -1, -1, -1) for part in (dictionary_k, dictionary_v))
    return own, softmax_attention(q_cross, entries, values, mask=dictionary_mask, dropout_p=dropout_p, scale=scale)


@leaf
def cross_sample_attention_maps(
    q: Tensor,
    k: Tensor,
    *,
    dictionary_k: Tensor,
    q_cross: Tensor | None = None,
    mask: Tensor | None = None,
    dictionary_mask: Tensor | None = None,
    is_causal: bool = False,
) -> dict[str, Tensor]:
    """``combined``: the in-sample map, ``(B, H, Nq, Nk)``, all that tokens learn of each other. ``dictionary``: ``(B, H, Nq, K)``. Rows sum to one."""
    q_cross = q if q_cross is None else q_cross
    entries = dictionary_k.expand(q.shape[0], -1, -1, -1)
    return {
        "combined": softmax_attention_map(q, k, mask=mask, is_causal=is_causal),
        "dictionary": softmax_attention_map(q_cross, entries, mask=dictionary_mask),
    }


@leaf
def cross_sample_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, *, dictionary_k: Tensor, dictionary_v: Tensor, q_cross: Tensor | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The formula of the file's head, sample by sample, with both maps in memory."""
    own, cross = [], []
    for sample in range(len(q)):
        query = (q if q_cross is None else q_cross)[sample]
        at = sample if len(dictionary_k) > 1 else 0
        own.append(softmax_attention_reference(q[sample], k[sample], v[sample], scale=scale))
        cross.append(softmax_attention_reference(query, dictionary_k[at], dictionary_v[at], scale=scale))
    return torch.stack(own), torch.stack(cross)
