"""A graph compiled ahead of time by TorchInductor, called without Python between its kernels."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae import _private as private
from ppl_vae.capture import cache, matmul
from ppl_vae.capture.errors import CaptureError
from ppl_vae.capture.trace import Graph

Runner = Callable[[list[Tensor]], list[Tensor]]
"""Takes ``inputs + lifted``, changes the lifted ones in place, returns the outputs."""


@functools.cache
def missing_compiler() -> str | None:
    """Why nothing can be captured and compiled here, or None."""
    lacking = private.missing() or private.missing(compiler=True)
    if lacking is not None:
        return lacking
    try:
        private.cpp_compiler()
    except Exception as error:  # torch has its own exceptions, and they move between versions
        first = str(error).strip().partition("\n")[0]
        return f"no C++ compiler was found ({first[:120]}); install g++ or clang, or set CXX"
    return None


def compile_graph(graph: Graph, inputs: Sequence[Tensor]) -> Runner:
    """Compile a graph for inputs of these shapes, with as many threads as torch has now.

    Random operations are torch's own (``fallback_random``), so the noise is that of the eager step.

    Raises:
        CaptureError: no compiler, or the compiler failed.
    """
    reason = missing_compiler()
    if reason is not None:
        raise CaptureError(reason)
    arguments = [tensor.detach() for tensor in (*inputs, *graph.lifted)]
    errors = []
    for build in (_ahead_of_time, _in_process):
        try:
            with cache.in_use(), _quiet(), torch.no_grad():
                return build(graph.functional, arguments)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}")
    raise CaptureError(f"the compiler failed ({'; '.join(errors)})")


def _options() -> dict[str, Any]:
    return {
        "fallback_random": True,
        "cpp.threads": torch.get_num_threads(),
        "cpp.simdlen": None,
        "freezing": False,
    }


def _ahead_of_time(functional: fx.GraphModule, arguments: list[Tensor]) -> Runner:
    """A shared library that torch loads: the fastest call there is from Python, and the next process finds it again."""
    home = library_folder(functional, arguments)
    if home.exists():
        with contextlib.suppress(RuntimeError, StopIteration):  # what cannot be loaded is made anew
            return _loaded(home)
        shutil.rmtree(home, ignore_errors=True)
    make_library(functional, arguments, home)
    return _loaded(home)


def make_library(functional: fx.GraphModule, arguments: list[Tensor], home: Path) -> None:
    """Compile a graph into a folder; all or nothing."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as folder, _quiet(), torch.no_grad():
        options = {**_options(), "aot_inductor.package": False, "aot_inductor.output_path": folder}
        graph = _copy(functional)
        if matmul.library() is not None and matmul.replace_products(graph):
            options["aot_inductor.custom_ops_to_c_shims"] = {matmul.operator(): [matmul.DECLARATION]}
        private.aot_compile(graph, tuple(arguments), options=options)
        made = Path(folder) / "library"
        made.mkdir()
        for file in (*Path(folder).rglob("*.so"), *Path(folder).rglob("*.json")):
            os.replace(file, made / file.name)
        with contextlib.suppress(OSError):  # another process was first
            os.replace(made, home)


def _loaded(home: Path) -> Runner:
    path = next(home.glob("*.so"))
    reason = cache.open_to_others(path)
    if reason is not None:
        raise RuntimeError(f"a library that is not run, because {reason}")
    matmul.library()  # its function is found by name
    run: Runner = private.LibraryRunner(str(path), 1).run
    return run


def library_folder(functional: fx.GraphModule, arguments: list[Tensor]) -> Path:
    """The folder of a graph's library: named by all that decides what is compiled."""
    kinds = [(tuple(t.shape), t.stride(), str(t.dtype), str(t.device)) for t in arguments]
    options = sorted(_options().items(), key=str)
    what = (torch.__version__, matmul.fingerprint(), os.environ.get("CXX"), _processor(), options, kinds)
    digest = hashlib.sha256(f"{what}\n{functional.graph.python_code('self').src}".encode()).hexdigest()
    return cache.folder() / "ppl_vae" / digest


@functools.cache
def _processor() -> str:
    """A library is made for the processor that it is made on."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {platform.processor()}"


def _in_process(functional: fx.GraphModule, arguments: list[Tensor]) -> Runner:
    """The same kernels called through torch's Python wrapper, for graphs that cannot be put into a library."""
    patches = {**_options(), "cpp_wrapper": True}
    compiled: Any = private.compile_fx(_copy(functional), arguments, config_patches=patches)

    def run(tensors: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(compiled(*tensors))

    return run


def _copy(functional: fx.GraphModule) -> fx.GraphModule:
    """The compiler's passes rewrite the graph that they are given."""
    graph = fx.Graph()
    output = graph.graph_copy(functional.graph, {})
    graph.output(output)
    return fx.GraphModule(functional, graph)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The compiler's warnings and log lines are about itself."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
