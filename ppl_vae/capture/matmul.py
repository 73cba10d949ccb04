"""Matrix products of a compiled step by oneDNN's micro-kernels: see matmul.cpp for what and why.

torch multiplies small matrices by MKL, which costs more in calls than in arithmetic, and on processors other than
Intel's runs at half the rate of oneDNN. The choice is made once a machine and never by a clock: where the kernels can
be built and give the right numbers, a compiled graph of float32 matrices takes them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae import _private as private
from ppl_vae.capture import cache

aten = torch.ops.aten

SOURCE = Path(__file__).with_name("matmul.cpp")
DECLARATION = "AOTITorchError aoti_torch_cpu_ppl_vae_mm(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*)"


@torch.library.custom_op("ppl_vae::ppl_vae_mm", mutates_args=(), schema="(Tensor a, Tensor b) -> Tensor")
def _mm(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices; compiled graphs call the function of matmul.cpp in its place."""
    return torch.mm(a, b)


@_mm.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def operator() -> Any:
    """The operator that stands in a graph."""
    return torch.ops.ppl_vae.ppl_vae_mm.default


def fingerprint() -> str:
    """What a graph that uses the kernels depends on."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


@functools.cache
def library() -> Path | None:
    """The loaded library of the kernels; None where it cannot be built, loaded or trusted."""
    try:
        with cache.in_use():
            path = _built()
        loaded = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # graphs find the function by name
        if not loaded.ppl_vae_mm_is_right():
            return None
    except Exception:  # no compiler, another processor, another torch: the graph keeps torch's own products
        return None
    return path


def makers() -> str:
    """Who makes the matrix products of a compiled step on this machine."""
    return "oneDNN" if library() is not None else "torch"


def _built() -> Path:
    isa = private.pick_vec_isa()
    if "avx512" not in str(isa).lower():
        raise RuntimeError("the kernels are worth it with AVX-512 only")
    what = f"{torch.__version__} {isa} {os.environ.get('CXX')}".encode() + SOURCE.read_bytes()
    path = cache.folder() / "ppl_vae" / f"matmul_{hashlib.sha256(what).hexdigest()}.so"
    if not path.exists() or cache.open_to_others(path) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            options = private.CppTorchOptions(vec_isa=isa, include_pytorch=True, warning_all=False)
            builder = private.CppBuilder(name="matmul", sources=str(SOURCE), BuildOption=options, output_dir=folder)
            builder.build()
            os.replace(builder.get_target_file_path(), path)
    return path


def replace_products(graph_module: fx.GraphModule) -> int:
    """Let every product of two float32 matrices on the CPU be made by our operator, in place; how many there are."""
    graph, count = graph_module.graph, 0
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (aten.mm.default, aten.addmm.default):
            continue
        value = node.meta.get("val")
        if value is None or value.dtype != torch.float32 or value.device.type != "cpu" or not value.numel():
            continue
        if node.target is aten.addmm.default and node.kwargs:
            continue  # scaled
        *bias, left, right = node.args
        if not left.meta["val"].shape[1]:
            continue
        with graph.inserting_before(node):
            product = graph.call_function(operator(), (left, right))
            product.meta["val"] = value
            if bias:
                product.meta["val"] = torch.empty_like(value)
                summed = graph.call_function(aten.add.Tensor, (product, bias[0]))
                summed.meta["val"] = value
                product = summed
        node.replace_all_uses_with(product)
        graph.erase_node(node)
        count += 1
    graph_module.recompile()
    return count
