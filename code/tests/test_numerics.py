"""The same training in other circumstances: what is compared, and that processes of their own agree."""

import numpy as np
import pytest
import torch

from resnetbook import numerics


def test_differences_are_those_of_the_logits():
    first = np.zeros((2, 3, 2), dtype=np.float32)
    first[:, :, 0] = 1  # every answer is class 0
    other = first.copy()
    other[1, 2] = [0.5, 3.0]  # after more steps one image has another answer
    labels = np.array([0, 0, 1])
    found = numerics.differences(other, first, labels)
    assert found["largest"] == [0.0, 3.0]
    assert found["changed"] == pytest.approx([0, 1 / 3])
    assert found["accuracy"] == pytest.approx([2 / 3, 1.0])


def test_each_way_trains_in_a_process_of_its_own_and_as_here():
    logits, version = numerics.train_in_a_process(numerics.FIRST, 0, steps=[1])
    assert logits.shape == (1, 10_000, 10)
    assert version == torch.__version__.partition("+")[0]
    # Another order of additions is no other training: a step changes the last digits, no more.
    assert np.abs(logits[0] - numerics.train(0, 1, channels_last=False)).max() < 1e-4
    # Another seed is one.
    assert np.abs(logits[0] - numerics.train(1, 1, channels_last=True)).max() > 1e-2


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="failed: "):
        numerics.train_in_a_process(numerics.Way(seed_by=-1), 0, steps=[1])
