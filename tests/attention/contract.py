"""The contract of token attentions is public, :mod:`foveal.testing`; here its tests get the marks of the cases that they hold."""

import pytest

from foveal.testing import DIM, HEADS, AttentionContract, assert_close

__all__ = ["DIM", "HEADS", "AttentionContract", "assert_close"]

pytest.mark.case("C5")(AttentionContract.test_a_mask_of_keys_that_became_float_means_the_same)
pytest.mark.case("C5")(AttentionContract.test_a_mask_of_other_floats_is_added_or_refused)
pytest.mark.case("R1")(AttentionContract.test_half_precision_is_as_near_as_that_of_softmax)
pytest.mark.case("R1", "C28")(AttentionContract.test_half_precision_with_absent_keys)
pytest.mark.case("R1")(AttentionContract.test_autocast_is_within_a_hundredth)
