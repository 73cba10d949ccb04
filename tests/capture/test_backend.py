"""A graph becomes a library once, is found again, and multiplies matrices right, in whatever order they lie."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch import Tensor

from ppl_vae.capture import CaptureError, backend, capture, compile_graph, matmul, missing_compiler
from ppl_vae.capture.build import Build

pytestmark = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))


def products(a: Tensor, b: Tensor, bias: Tensor) -> list[Tensor]:
    """Products of both orders of both operands, with a bias, with views, and of an outer kind."""
    return [
        a @ b.T,
        a.T @ a,
        a @ a.T,
        torch.addmm(bias, a, b.T),
        a[:, 2:] @ b.T[2:],
        a[:, :1] @ b[:1],
        torch.addmm(bias, a, b.T, beta=0.5),
    ]


@pytest.fixture(scope="module")
def operands() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator) for shape in ((17, 23), (5, 23), (5,)))  # type: ignore[return-value]


def test_products_are_those_of_torch(operands):
    _values, graph = capture(products, list(operands))
    compiled = compile_graph(graph, operands)([*operands, *graph.lifted])
    for ours, theirs in zip(compiled, products(*operands), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_float32_products_are_replaced(operands):
    _, graph = capture(products, list(operands))
    assert matmul.replace_products(backend._copy(graph.functional)) == 6  # the scaled one stays
    _, double = capture(products, [t.double() for t in operands])
    assert matmul.replace_products(backend._copy(double.functional)) == 0


def test_a_library_is_found_again(operands, monkeypatch):
    _, graph = capture(products, list(operands))
    compile_graph(graph, operands)
    monkeypatch.setattr(backend, "make_library", lambda *_: pytest.fail("compiled twice"))
    _, again = capture(products, list(operands))
    compile_graph(again, operands)


def test_other_threads_shapes_and_numbers_are_other_libraries(operands):
    def folder(fn, *tensors):
        _, graph = capture(fn, list(tensors))
        return backend.library_folder(graph.functional, [*tensors, *graph.lifted])

    a = operands[0]
    folders = {
        folder(lambda x: [x * 2.0], a),
        folder(lambda x: [x * 2.5], a),
        folder(lambda x: [x * 2.0], a[:5]),
        folder(lambda x: [x * 2.0], a.double()),
        folder(lambda x: [x * 2.0], a.T),
    }
    assert len(folders) == 5
    assert folder(lambda x: [x * 2.0], a) in folders


def test_a_broken_library_is_made_anew(operands, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "library_folder", lambda *_: tmp_path / "library")
    _, graph = capture(lambda x: [x + 1], [operands[0]])
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "broken.so").write_bytes(b"no library")
    (value,) = compile_graph(graph, operands[:1])([operands[0], *graph.lifted])
    assert torch.equal(value, operands[0] + 1)


def test_another_process_compiles_meanwhile(operands, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "library_folder", lambda *_: tmp_path / "library")
    a, b, _bias = operands
    _, graph = capture(lambda x, y: [(x @ y.T).sin(), torch.full((2,), float("inf"))], [a, b])
    build = Build(graph, [a, b])
    assert not build.done
    deadline = time.monotonic() + 300
    while not build.done and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list((tmp_path / "library").glob("*.so"))
    monkeypatch.setattr(backend, "make_library", lambda *_: pytest.fail("compiled twice"))
    value, infinite = compile_graph(graph, [a, b])([a, b, *graph.lifted])
    assert torch.allclose(value, (a @ b.T).sin(), atol=1e-5) and infinite.isinf().all()


def test_a_build_that_nobody_waits_for_is_ended(operands, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "library_folder", lambda *_: tmp_path / "library")
    _, graph = capture(lambda x: [x.cos()], [operands[0]])
    build = Build(graph, operands[:1])
    process = build._process
    assert process is not None and process.poll() is None
    del build
    assert process.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_failure_of_the_compiler_is_a_reason(operands, monkeypatch):
    def fail(*_):
        raise RuntimeError("no luck\nand a long story")

    for build in ("_ahead_of_time", "_in_process"):
        monkeypatch.setattr(backend, build, fail)
    _, graph = capture(lambda x: [x.tan()], [operands[0]])
    with pytest.raises(CaptureError, match=r"the compiler failed \(RuntimeError: no luck"):
        compile_graph(graph, operands[:1])


def test_without_a_library_the_same_kernels_are_called_in_process(operands, monkeypatch):
    monkeypatch.setattr(backend, "_ahead_of_time", lambda *_: 1 / 0)
    state = torch.zeros(3)

    def fn(x: Tensor) -> list[Tensor]:
        state.add_(1)
        return [x.exp() + torch.randn(3).sum() * 0 + state.sum()]

    _, graph = capture(fn, [operands[0]])
    (value,) = compile_graph(graph, operands[:1])([operands[0], *graph.lifted])
    assert torch.equal(state, torch.full((3,), 2.0))
    assert torch.allclose(value, operands[0].exp() + 6.0, rtol=1e-5)
