"""What has been compiled is run: it is kept, and found, only where nobody else can write."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

from ppl_vae.capture import FallbackWarning, backend, cache, capture

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no owners and modes here")
VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache folder of the test's, and temporary folders there too."""
    folder = tmp_path / "inductor"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache._say.cache_clear()
    cache._temporary.cache_clear()
    yield folder
    cache._temporary().cleanup()
    cache._temporary.cache_clear()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_a_folder_of_one_s_own_is_used(place, mode):
    place.chmod(mode)
    assert cache.folder() == place


def test_a_new_folder_is_made_for_this_user_alone(place, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(place / "new"))
    before = os.umask(0)
    try:
        assert cache.folder() == place / "new"
    finally:
        os.umask(before)
    assert (place / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used_and_that_is_said(place, mode):
    place.chmod(mode)
    with pytest.warns(FallbackWarning, match=rf"cache folder {place} is not used, because others can write to {place}"):
        found = cache.folder()
    assert found == place.parent / f"ppl_vae_{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    assert cache.folder() == found  # said once
    with cache.in_use():
        assert os.environ[VARIABLE] == str(found)
    assert os.environ[VARIABLE] == str(place)


def test_nor_one_below_a_folder_that_others_can_write_to(place):
    place.parent.chmod(0o777)
    assert cache.open_to_others(place) == f"others can write to {place.parent}"
    place.parent.chmod(0o1777)  # as /tmp: nobody can move what is another's
    assert cache.open_to_others(place) is None
    place.parent.chmod(0o700)


def test_nor_one_to_which_a_link_leads(place):
    place.chmod(0o777)
    link = place.parent / "link"
    link.symlink_to(place)
    assert cache.open_to_others(link) == f"others can write to {place}"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_nor_one_of_another_user(place):
    os.chown(place, 12345, -1)
    with pytest.warns(FallbackWarning, match="belongs to another user"):
        assert cache.folder() != place


def test_where_its_own_folder_is_taken_too_each_process_has_another(place):
    place.chmod(0o777)
    taken = place.parent / f"ppl_vae_{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    with pytest.warns(FallbackWarning):
        found = cache.folder()
    assert found not in (place, taken)
    assert cache.open_to_others(found) is None


def test_a_library_that_others_can_write_to_is_not_run(place, monkeypatch):
    """It is made anew."""
    _, graph = capture(lambda x: [x.sin()], [torch.ones(3)])
    home = backend.library_folder(graph.functional, [torch.ones(3)])
    assert home.is_relative_to(place)
    home.mkdir(parents=True)
    (home / "planted.so").write_bytes(b"")
    (home / "planted.so").chmod(0o777)
    with pytest.raises(RuntimeError, match=r"a library that is not run, because others can write to .*planted\.so"):
        backend._loaded(home)
    made: list[Path] = []
    monkeypatch.setattr(backend, "make_library", lambda functional, arguments, home: made.append(home))
    with pytest.raises(StopIteration):
        backend._ahead_of_time(graph.functional, [torch.ones(3)])
    assert made == [home] and not home.exists()
