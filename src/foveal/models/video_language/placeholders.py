"""Vectors in the places of words that stand for them.

Shapes     B samples, L words, M vectors of a sample, D width of the language model
"""

from torch import Tensor

from ..._errors import InputError

__all__ = ["put_in"]


def put_in(embeds: Tensor, ids: Tensor, token: int, vectors: Tensor, present: Tensor | None, what: str) -> Tensor:
    """``embeds`` with the vectors, in their order, where ``ids`` is ``token``.

    Sample by sample, and not over the batch: a vector more here and one less there would go to the wrong sample.

    Args:
        embeds: of the words, ``(B, L, D)``.
        ids: of the words, ``(B, L)``.
        token: the word that stands for a vector.
        vectors: ``(B, M, D)``.
        present: which of them there are, bool ``(B, M)``; all if None.
        what: the vectors in words, for errors.

    Raises:
        ValueError: a sample has more of the words than vectors, or less.
    """
    present = vectors.new_ones(vectors.shape[:2]).bool() if present is None else present
    places = ids == token
    wanted, got = places.sum(1).tolist(), present.sum(1).tolist()
    wrong = [index for index, (words, there) in enumerate(zip(wanted, got, strict=True)) if words != there]
    if wrong:
        first = wrong[0]
        raise InputError(f"sample {first} has {wanted[first]} words {token} for {what} and {got[first]} {what}; put one word for each into its ids")
    return embeds.masked_scatter(places[..., None], vectors[present].to(embeds.dtype))
