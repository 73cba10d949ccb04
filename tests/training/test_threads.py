"""How many threads a step takes: by a rule in sizes, and the caller's number is given back."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.training.threads import SMALL, is_small, one_thread


def test_the_rule_is_in_sizes():
    assert is_small(30_000, 64, 64 * 64)  # 64-64-8, batch 64
    assert not is_small(650_000, 128, 128 * 784)  # 784-400-50, batch 128
    assert is_small(SMALL - 1, 1, 0) and not is_small(SMALL, 1, 0)


def test_one_thread_only_where_it_is_wanted_and_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread(True):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread(False):
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread(True):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
