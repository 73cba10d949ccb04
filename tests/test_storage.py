"""Laws of what is written to disk: it comes back as it was, or it is refused by name; and nothing in it is
ever run.
"""

from __future__ import annotations

import builtins
import contextlib
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppl_vae.storage import (
    RunFolder,
    StorageError,
    WriteError,
    atomic_write,
    decode_json,
    decode_tree,
    encode_json,
    encode_tree,
    environment,
    load_tree,
    read_json,
    save_tree,
    write_json,
)

ROOT = Path(__file__).parents[1]

PLAIN = {
    "empty": {},
    "none": None,
    "numbers": [0, -1, 2**80, 0.1, -0.0, 1e308, 5e-324],
    "not finite": [math.inf, -math.inf],
    "text": "nats: \u2207\u03c6 \U0001f600 \"quoted\" '$tensor' \x00\n, a lone surrogate \ud83d",
    "keys": {0: "int", "0": "str", -5: {"nested": True}},
    "tags": {"$tensor": ["t0"], "$float": "inf", "$dict": []},
    "a false digest": {"sha256": "0" * 64, "also": ["0" * 64]},
}

TENSORS = {
    "float32": torch.linspace(-1, 1, 12).reshape(3, 4),
    "float64": torch.tensor([math.pi, math.inf, -math.inf], dtype=torch.float64),
    "bfloat16": torch.linspace(-1, 1, 5).bfloat16(),
    "float16": torch.linspace(-1, 1, 5).half(),
    "int64": torch.tensor([2**62, -1]),
    "uint8": torch.arange(7, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "complex64": torch.tensor([1 + 2j]),
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "0-dim": torch.tensor(2.5),
    "0-dim long": torch.tensor(7),
    "empty": torch.zeros(0),
    "empty 2d": torch.zeros(0, 3, dtype=torch.int32),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
    "sliced": torch.arange(10.0)[3:9:2],
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def same(a: object, b: object) -> bool:
    """Equal in type, dtype, shape and every bit; tuples count as lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and repr(a) == repr(b)  # repr tells -0.0 from 0.0 and knows nan


# round trips


@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_comes_back_from_json_and_from_a_tree(name: str) -> None:
    value = PLAIN[name]
    assert same(value, decode_json(encode_json(value)))
    assert same(value, decode_tree(encode_tree(value)))


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_bit_by_bit(name: str, tmp_path: Path) -> None:
    tensor = TENSORS[name]
    save_tree(tmp_path / "t.safetensors", {"a": [tensor, (1, None)]})
    tree = load_tree(tmp_path / "t.safetensors")
    assert same({"a": [tensor.detach().resolve_conj(), [1, None]]}, tree)
    assert not tree["a"][0].requires_grad


def test_nan_comes_back() -> None:
    assert math.isnan(decode_json(encode_json(math.nan)))
    assert decode_tree(encode_tree(torch.tensor(math.nan))).isnan()


def test_an_optimizer_state_comes_back() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert same(state["state"], decode_tree(encode_tree(state))["state"])


def test_tied_tensors_are_written_once_and_come_back_tied() -> None:
    weight = torch.arange(10000.0).reshape(100, 100)
    raw = encode_tree({"encoder": weight, "decoder": weight, "list": [weight.detach()]})
    assert len(raw) < 1.2 * 4 * weight.numel()
    tree = decode_tree(raw)
    tree["encoder"].zero_()
    assert not tree["decoder"].any()
    assert not tree["list"][0].any()


def test_views_of_one_memory_come_back_as_views_of_one_memory() -> None:
    base = torch.arange(24.0)
    views = {
        "all": base[2:].reshape(2, 11),
        "t": base[2:].reshape(2, 11).t(),
        "row": base[5:9],
        "one": base[7],
    }
    tree = decode_tree(encode_tree(views))
    assert same(views, tree)
    tree["one"].fill_(-1.0)
    assert tree["row"][2] == -1.0
    assert tree["all"][0, 5] == -1.0
    assert tree["t"][5, 0] == -1.0


def test_separate_tensors_are_not_tied() -> None:
    tree = decode_tree(encode_tree([torch.ones(2), torch.ones(2), torch.zeros(0), torch.zeros(0)]))
    tree[0].zero_()
    assert same(tree[1], torch.ones(2))


def test_the_file_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_tree(tmp_path / "t.safetensors", {"w": torch.arange(3.0)})
    assert [t.tolist() for t in load_file(tmp_path / "t.safetensors").values()] == [[0.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [1, {2}]}, r"tree\['a'\]\[1\] must be a dict.* got set"),
        ({"f": print}, r"tree\['f'\] must be .* got builtin_function_or_method"),
        ({(1, 2): 3}, r"a key of tree must be str or int to be saved, got \(1, 2\)"),
        (
            {"s": torch.ones(2, 2).to_sparse()},
            r"tree\['s'\] must be a dense tensor .* got a torch.float32 torch.sparse_coo",
        ),
        ([torch.ones(1, device="meta")], r"tree\[0\] must be a dense tensor .* on meta"),
        ({"c": torch.ones(1, dtype=torch.complex128)}, r"tree\['c'\] .* got a torch.complex128"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_place(tree: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        save_tree(tmp_path / "t", tree)
    assert list(tmp_path.iterdir()) == []


def test_environment_is_plain_and_names_the_versions() -> None:
    facts = environment()
    assert same(facts, decode_json(encode_json(facts)))
    assert facts["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert facts["threads"] == torch.get_num_threads()


# damage


FILES = {
    "json": (encode_json({"recipe": "vae", "lr": 1e-3}), decode_json),
    "tree": (
        encode_tree({"w": torch.linspace(-1, 1, 8), "step": 3, "tied": [torch.ones(2)] * 2}),
        decode_tree,
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_flipped_byte_is_found(kind: str) -> None:
    raw, decode = FILES[kind]
    decode(raw)
    rng = random.Random(0)
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= rng.randrange(1, 256)
        with pytest.raises(StorageError, match=r"^runs/a/file: "):
            decode(bytes(damaged), "runs/a/file")


@pytest.mark.parametrize("kind", FILES)
def test_every_truncation_is_found(kind: str) -> None:
    raw, decode = FILES[kind]
    for size in range(len(raw)):
        with pytest.raises(StorageError, match=r"^runs/a/file: "):
            decode(raw[:size], "runs/a/file")


@pytest.mark.parametrize("kind", FILES)
def test_appended_bytes_are_found(kind: str) -> None:
    raw, decode = FILES[kind]
    with pytest.raises(StorageError):
        decode(raw + b"\n")


def test_without_the_digest_a_flipped_weight_would_pass() -> None:
    """The negative twin: safetensors itself reads a file with a flipped byte as if nothing were wrong."""
    from safetensors.torch import load

    damaged = bytearray(FILES["tree"][0])
    damaged[-1] ^= 1
    load(bytes(damaged))


def test_another_format_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppl_vae.storage.json_file.VERSION", 2)
    monkeypatch.setattr("ppl_vae.storage.tree.VERSION", 2)
    newer = {"json": encode_json(1), "tree": encode_tree(1)}
    monkeypatch.undo()
    for kind, raw in newer.items():
        with pytest.raises(StorageError, match=r"format version '?2'?; this ppl_vae reads version 1"):
            FILES[kind][1](raw)


@pytest.mark.parametrize("read", [read_json, load_tree])
def test_a_missing_file_and_a_folder_are_named(read: object, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent: no such file"):
        read(tmp_path / "absent")
    with pytest.raises(StorageError, match="cannot be read"):
        read(tmp_path)


# hostile files


class Canary:
    """What an attacker pickles: loading it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def hostile(canary: Path, folder: Path) -> dict[str, bytes]:
    torch.save(Canary(canary), folder / "hostile.pt")
    return {
        **{f"pickle {p}": pickle.dumps(Canary(canary), protocol=p) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
        "torch.save": (folder / "hostile.pt").read_bytes(),
    }


def full_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.write(
        {
            folder.CONFIG: {"recipe": "vae"},
            folder.MODEL: {"w": torch.ones(3)},
            folder.STATE: {"step": 1},
            folder.HISTORY: "step,elbo\n0,-1.0\n",
            folder.ENVIRONMENT: environment(),
            folder.POSTERIOR: b"\x89HDF",
            folder.README: "# a run\n",
            "plots/history.png": lambda path: path.write_bytes(b"\x89PNG"),
        }
    )
    return folder


def test_a_hostile_pickle_in_place_of_any_file_is_refused_by_name(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for kind, raw in hostile(canary, tmp_path).items():
        for name in [*full_folder(tmp_path / "model").names(), RunFolder.MANIFEST]:
            folder = full_folder(tmp_path / "run")
            (folder.path / name).write_bytes(raw)
            with pytest.raises(StorageError, match=name):
                folder.verify()
            for read in (
                folder.read_bytes,
                folder.read_json,
                folder.read_tree,
                folder.read_text,
                folder.checked_path,
            ):
                with pytest.raises(StorageError, match=name):
                    read(name)
            for read in (read_json, load_tree):
                with pytest.raises(StorageError, match=name):
                    read(folder.path / name)
            assert not canary.exists(), kind
            shutil.rmtree(folder.path)
    atomic_write(tmp_path / "a.pkl", pickle.dumps(Canary(canary)))
    with pytest.raises(StorageError, match=r"a\.pkl: this is a pickle; refused"):
        load_tree(tmp_path / "a.pkl")


def test_the_canary_sings(tmp_path: Path) -> None:
    """The negative twin: unpickling any of those files does run its code."""
    for raw in (raw for kind, raw in hostile(tmp_path / "canary", tmp_path).items() if "pickle" in kind):
        pickle.loads(raw)
        (tmp_path / "canary").rmdir()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "", "manifest.json", "c:\\x"])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(StorageError, match="is not the name of a file inside the folder"):
        folder.write({name: "text"})
    hostile_manifests = [
        {"files": {name: {"sha256": "0" * 64}}, "obsolete": []},
        {"files": {"a": {"sha256": "0" * 64, "staged": name}}, "obsolete": []},
        {"files": {}, "obsolete": [name]},
    ]
    for manifest in hostile_manifests:
        write_json(folder.path / folder.MANIFEST, manifest)
        with pytest.raises(StorageError, match="is not the name of a file inside the folder"):
            folder.write({"b": "text"})


@pytest.mark.parametrize("content", [None, [], {"files": []}, {"files": {"a": 1}, "obsolete": []}, {"files": {}}])
def test_a_manifest_of_another_form_is_refused(content: object, tmp_path: Path) -> None:
    write_json(tmp_path / RunFolder.MANIFEST, content)
    with pytest.raises(StorageError, match="the content is not that of a manifest"):
        RunFolder(tmp_path).verify()


# the run folder


def test_a_folder_reads_back_what_was_written(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    folder.verify()
    assert folder.read_json("config.json") == {"recipe": "vae"}
    assert same(folder.read_tree("model.safetensors"), {"w": torch.ones(3)})
    assert folder.read_text("history.csv").startswith("step,elbo")
    assert folder.checked_path("plots/history.png").read_bytes() == b"\x89PNG"
    assert "README.md" in folder
    assert "nothing" not in folder
    assert not [path for path in folder.path.rglob("*") if path.name.startswith(".")]


def test_a_second_save_keeps_the_other_files_or_removes_them(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    note = folder.path / "my-notes.txt"
    note.write_text("a file of the user")
    folder.write({"config.json": {"recipe": "new"}})
    assert folder.read_json("config.json") == {"recipe": "new"}
    assert "README.md" in folder
    folder.write({"history.csv": "step\n"}, keep=False)
    folder.verify()
    assert folder.names() == ["history.csv"]
    assert sorted(p.name for p in folder.path.iterdir() if p.is_file()) == [
        "history.csv",
        "manifest.json",
        "my-notes.txt",
    ]


def test_each_damaged_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    for name in full_folder(tmp_path / "names").names():
        folder = full_folder(tmp_path / "run")
        raw = (folder.path / name).read_bytes()
        for damaged in (raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1]), b""):
            (folder.path / name).write_bytes(damaged)
            with pytest.raises(StorageError, match=f"run/{name}: (the content does not match|not )"):
                folder.verify()
        (folder.path / name).unlink()
        with pytest.raises(StorageError, match=f"{name}: no such file"):
            folder.verify()
        shutil.rmtree(folder.path)
    with pytest.raises(StorageError, match=r"is not part of this run; it has README.md, config.json"):
        full_folder(tmp_path / "run").read_bytes("weights.bin")


def test_a_checkpoint_may_replace_the_state_on_its_own(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    save_tree(folder.path / folder.STATE, {"step": 2})
    folder.verify()
    assert folder.read_tree(folder.STATE) == {"step": 2}
    folder.write({"config.json": {}})
    folder.verify()
    save_tree(folder.path / folder.MODEL, {"w": torch.zeros(3)})  # the negative twin: only the state may
    with pytest.raises(StorageError, match=r"model.safetensors: the content does not match the manifest"):
        folder.verify()


HUGE = 1 << 40


def without_sizes(folder: RunFolder) -> RunFolder:
    """The manifest as earlier builds wrote it."""
    path = folder.path / folder.MANIFEST
    manifest = read_json(path)
    for entry in manifest["files"].values():
        del entry["size"]
    write_json(path, manifest)
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "state.safetensors", "history.csv", "README.md"])
@pytest.mark.parametrize("made", [full_folder, lambda path: without_sizes(full_folder(path))], ids=["sizes", "none"])
def test_a_file_of_a_terabyte_is_refused_before_it_is_read(made, name: str, tmp_path: Path) -> None:
    """Of holes: it takes no room, and hashing 20 GB of them took 86 seconds."""
    folder = made(tmp_path / "run")
    folder.verify()
    try:
        os.truncate(folder.path / name, HUGE)
    except OSError:
        pytest.skip("a file system without files of this size")
    for call in (folder.verify, lambda: folder.read_bytes(name)):
        with pytest.raises(StorageError, match=rf"{name}: .*got {HUGE}"):
            call()
    if name.endswith(".safetensors"):
        with pytest.raises(StorageError, match=rf"{name}: .*got {HUGE}"):
            load_tree(folder.path / name)


def test_the_manifest_knows_sizes_and_keeps_what_it_knows(tmp_path: Path) -> None:
    folder = without_sizes(full_folder(tmp_path / "run"))
    folder.write({folder.HISTORY: "step\n"})
    entries = read_json(folder.path / folder.MANIFEST)["files"]
    assert entries[folder.HISTORY]["size"] == 5
    assert [name for name, entry in entries.items() if "size" in entry] == [folder.HISTORY]
    folder.verify()


def test_a_folder_with_a_checkpoint_alone_can_be_claimed(tmp_path: Path) -> None:
    save_tree(tmp_path / RunFolder.STATE, {"step": 2})
    RunFolder(tmp_path).claim().write({"config.json": {}})


def test_a_folder_with_a_checkpoint_folder_can_be_claimed(tmp_path: Path) -> None:
    (tmp_path / RunFolder.CHECKPOINT).mkdir()
    write_json(tmp_path / RunFolder.CHECKPOINT / "config.json", {})
    RunFolder(tmp_path).claim().write({"config.json": {}})


def test_a_missing_folder_is_an_error_that_names_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"manifest\.json: no such file; this is not a run folder"):
        RunFolder(tmp_path / "absent").verify()


def test_claim_refuses_a_run_and_never_takes_a_folder_of_something_else(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "new" / "deep").claim().path.is_dir()
    full_folder(tmp_path / "run")
    with pytest.raises(FileExistsError, match="there is a run here already"):
        RunFolder(tmp_path / "run").claim()
    RunFolder(tmp_path / "run").claim(overwrite=True).verify()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    for place in (tmp_path / "home", tmp_path / "home" / "thesis.tex"):
        with pytest.raises(FileExistsError, match="exists and is not a run folder"):
            RunFolder(place).claim(overwrite=True)


def test_a_damaged_folder_can_be_overwritten_but_not_added_to(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    (folder.path / folder.MANIFEST).write_text("{")
    with pytest.raises(StorageError, match=r"manifest.json: not valid JSON"):
        folder.write({"config.json": {}})
    folder.claim(overwrite=True).write({"config.json": {}}, keep=False)
    folder.verify()


def test_content_of_an_unknown_type_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    with pytest.raises(TypeError, match=r"history.csv: must be bytes, str or a function that writes it, got dict"):
        folder.write({"config.json": {"recipe": "new"}, "history.csv": {}})
    folder.verify()
    assert folder.read_json("config.json") == {"recipe": "vae"}


# crashes

STEPS = {
    "builtins.open": builtins,
    "os.open": os,
    "os.fsync": os,
    "os.replace": os,
    "os.unlink": os,
    "os.mkdir": os,
}


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_of_any_system_call_leaves_one_whole_save(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the n-th call, for every n: all old or all new, and the next save succeeds."""
    old = {"a.json": ["old"], "b.json": ["old"], "c.json": ["old"]}
    new = {"a.json": ["new"], "sub/d.json": ["new"]}
    module, name = STEPS[step], step.split(".")[1]
    faults = 0
    while faults == len(list(tmp_path.iterdir())):  # until a save makes fewer than n calls
        folder = RunFolder(tmp_path / f"run{faults}")
        folder.write(old)
        with monkeypatch.context() as patch:
            countdown = failing_at(faults, getattr(module, name))
            patch.setattr(module, name, countdown)
            with contextlib.suppress(OSError):
                folder.write(new, keep=False)
        faults += countdown.failed
        folder.verify()
        assert {name: folder.read_json(name) for name in folder.names()} in (old, new)
        folder.write({"e.json": ["next"]})
        folder.verify()
    assert faults > 1


class failing_at:
    """A system call that fails once, at its n-th use."""

    def __init__(self, n: int, real: object) -> None:
        self.left, self.real, self.failed = n, real, False

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.left -= 1
        if self.left == -1:
            self.failed = True
            raise OSError(28, "No space left on device")
        return self.real(*args, **kwargs)


KILLED_EVERYWHERE = """
import os, signal, shutil, sys
from pathlib import Path
from ppl_vae.storage import RunFolder, StorageError

OLD = {"a.json": "old", "b.json": "old", "plots/c.txt": "old", "gone.txt": "old"}
NEW = {"a.json": "new", "b.json": "new", "plots/d.txt": "new"}
NEW["plots/c.txt"] = lambda path: path.write_text("new")
ROOM = os.path.dirname(sys.modules["ppl_vae.storage"].__file__)

os.fsync = lambda descriptor: None  # a killed process loses nothing of what it wrote; only a power cut would

def killed_at(n):
    '''A trace function that ends the process, as kill -9 does, before the n-th line of the storage room.'''
    lines = iter(range(n))
    def trace(frame, event, arg):
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if event == "line" and next(lines, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

def content(folder):
    folder.verify()
    return {name: folder.read_bytes(name) for name in folder.names()}

base = Path(sys.argv[1])
RunFolder(base / "old").write(OLD)
shutil.copytree(base / "old", base / "new")
RunFolder(base / "new").write(NEW, keep=False)
old, new = content(RunFolder(base / "old")), content(RunFolder(base / "new"))
seen, n, status = [], 0, 1
stride = int(sys.argv[2])
while status:
    shutil.copytree(base / "old", base / "run")
    folder = RunFolder(base / "run")
    child = os.fork()
    if not child:
        sys.settrace(killed_at(n))
        folder.write(NEW, keep=False)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found = content(folder)
    assert found in (old, new), (n, found)
    seen.append(found == new)
    folder.write({"e.json": "next"})
    assert content(folder) == {**found, "e.json": content(folder)["e.json"]}
    assert not list(folder.path.rglob(".saving-*")), n
    shutil.rmtree(folder.path)
    n += stride
assert seen == sorted(seen) and seen[0] is False and seen[-1] is True  # one point of commitment
assert "torch" not in sys.modules
print(n)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_9_before_any_line_of_a_save_leaves_one_whole_save(stride: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path), str(stride)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 300


FOREVER = """
import sys, torch
from ppl_vae.storage import RunFolder
for step in range(10**9):
    tensor = torch.full((1000,), float(step))
    model, state = {"w": tensor}, {"w": tensor, "step": step}
    RunFolder(sys.argv[1]).write({"model.safetensors": model, "state.safetensors": state})
    print(step, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_kill_9_from_outside_leaves_a_folder_whose_files_belong_together(tmp_path: Path) -> None:
    """Killed while it saves in a loop; the moment is wherever the process happens to be."""
    command = [sys.executable, "-c", FOREVER, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(random.Random(0).randrange(3, 30)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    folder = RunFolder(tmp_path / "run")
    folder.verify()
    state, model = folder.read_tree("state.safetensors"), folder.read_tree("model.safetensors")
    assert same(state["w"], model["w"])
    assert same(state["w"], torch.full((1000,), float(state["step"])))


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "one")
    atomic_write(tmp_path / "a", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "two"
    with pytest.raises(WriteError, match=r"absent/a: could not be written \(No such file .*the folder is gone"):
        atomic_write(tmp_path / "absent" / "a", "text")
