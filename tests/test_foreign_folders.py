"""Folders from elsewhere: what is no plain file is not touched, and what stands in them in a wrong form is named."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run, data, plain

import ppl_vae
from ppl_vae.recipes.base import Facts, Settings
from ppl_vae.recipes.ration import Ration
from ppl_vae.recipes.registry import RECIPES, record
from ppl_vae.saving import save_fit
from ppl_vae.storage import RunFolder, StorageError, decode_json, decode_tree, encode_json, encode_tree, json_file
from ppl_vae.storage.digest import seal, sha256
from ppl_vae.training import NonFiniteError, ResumeError

needs_links = pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")


def small_fit(steps: int = 3):
    """A fit of the recipe ``vae``, as the command would save it."""
    facts = Facts((3,), binary=False)
    settings = Settings(latent_dim=2, hidden=(4,))
    model, guide = RECIPES["vae"].build(facts, settings)
    fit = ppl_vae.VariationalEM(model, guide).fit(data(), epochs=steps, progress=False)
    fit.config["results"] = {"train": {"elbo": -1.0}}
    return fit, record(RECIPES["vae"], facts, settings)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "run"
    fit, recipe = small_fit()
    save_fit(fit, folder, recipe=recipe, extra={"plots/note.txt": "a note"})
    return folder


@pytest.fixture
def run(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def forged(folder: Path, name: str, raw: bytes) -> Path:
    """The folder with other bytes in a file, of which its manifest knows."""
    path = folder / RunFolder.MANIFEST
    manifest = decode_json(path.read_bytes())
    manifest["files"][name] = {"sha256": sha256(raw), "size": len(raw)}
    (folder / name).write_bytes(raw)
    path.write_bytes(encode_json(manifest))
    return folder


def test_the_untouched_folder_loads(run):
    assert ppl_vae.load(run).steps == 3
    (run.parent / "link").symlink_to(run)
    assert ppl_vae.load(run.parent / "link").steps == 3  # a person has named it
    small_fit()[0].save(run.parent / "link", overwrite=True)
    assert (run.parent / "link").is_symlink()


# what is no plain file


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _link_out(path: Path) -> None:
    outside = path.parents[1] / "outside"
    outside.write_bytes(b"dear")
    path.symlink_to(outside)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


OTHERS = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a link out": _link_out,
    "a link to a device": _device,
    "a folder": _folder,
    "a link to itself": _loop,
}


@needs_links
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json", "README.md"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_plain_file_is_neither_opened_nor_replaced_nor_removed(kind, name, run):
    fit, _ = small_fit()
    (run / name).unlink()
    OTHERS[kind](run / name)
    before = os.lstat(run / name)
    message = rf"{name}: (a plain file is required|leads out of the folder|cannot be looked at \(Too many levels)"
    with pytest.raises(StorageError, match=message):
        ppl_vae.load(run)
    with pytest.raises(StorageError, match=message):
        fit.save(run, overwrite=True)
    assert os.path.samestat(before, os.lstat(run / name))
    if kind == "a link out":
        assert (run.parent / "outside").read_bytes() == b"dear"


@needs_links
def test_an_overwrite_does_not_remove_files_behind_a_linked_folder(run):
    """``plots`` leads to a folder of somebody else's, in which a file has the name of one that is obsolete."""
    (run.parent / "mine").mkdir()
    (run.parent / "mine" / "note.txt").write_text("mine")
    shutil.rmtree(run / "plots")
    (run / "plots").symlink_to(run.parent / "mine")
    with pytest.raises(StorageError, match=r"plots/note\.txt: leads out of the folder, to .*/mine; it is neither read"):
        small_fit()[0].save(run, overwrite=True)
    with pytest.raises(StorageError, match=r"plots/note\.txt: leads out of the folder"):
        ppl_vae.load(run)
    assert (run.parent / "mine" / "note.txt").read_text() == "mine"
    assert os.listdir(run.parent / "mine") == ["note.txt"]


@needs_links
def test_names_that_the_system_refuses_are_named(run):
    """A checkpoint that is a link to itself, a file in a folder that is one, a name that no file can bear."""
    with pytest.raises(StorageError, match=r"x{300}: cannot be looked at \(File name too long"):
        RunFolder(run).write({"x" * 300: "too long"})
    shutil.rmtree(run / "plots")
    _loop(run / "plots")
    for call in (lambda: ppl_vae.load(run), lambda: small_fit()[0].save(run, overwrite=True)):
        with pytest.raises(StorageError, match=r"plots/note\.txt: cannot be looked at \(Too many levels"):
            call()
    _loop(run.parent / RunFolder.STATE)
    with pytest.raises(StorageError, match=r"state\.safetensors: cannot be looked at"):
        Run(pair=plain)(3, folder=run.parent, resume=True)


@needs_links
def test_a_link_that_stays_in_the_folder_is_read(run):
    (run / "config.json").rename(run / "elsewhere.json")
    (run / "config.json").symlink_to("elsewhere.json")
    assert ppl_vae.load(run).steps == 3


@needs_links
def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / RunFolder.STATE)
    with pytest.raises(StorageError, match=r"state\.safetensors: a plain file is required, got a pipe"):
        Run(pair=plain)(3, folder=tmp_path, resume=True)


@needs_links
def test_the_command_does_not_clear_a_checkpoint_that_is_a_link(tmp_path):
    from click.testing import CliRunner

    from ppl_vae.cli import main

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RunFolder.CHECKPOINT).symlink_to(tmp_path / "mine")
    for option in ("--overwrite", "--resume"):
        found = CliRunner().invoke(
            main, ["fit", "vae", "--data", "iris", "--epochs", "1", "--out", str(tmp_path / "run"), option]
        )
        assert (found.exit_code, "a folder is required, got a link" in found.output) == (2, True), found.output
    assert (tmp_path / "mine" / "config.json").read_text() == "mine"


# sizes


def test_json_beyond_a_bound_is_not_read(run, monkeypatch):
    monkeypatch.setattr("ppl_vae.storage.reading.JSON_LIMIT", 1000)
    with pytest.raises(StorageError, match=r"\.json: at most 1000 bytes of JSON are read, got \d{4}"):
        ppl_vae.load(run)
    monkeypatch.undo()
    monkeypatch.setattr(json_file, "JSON_LIMIT", 500)
    with pytest.raises(StorageError, match="at most 500 bytes of JSON are read, got"):
        decode_tree((run / RunFolder.STATE).read_bytes())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "NaN", "[-Infinity]"])
def test_json_that_goes_too_deep_or_is_none_is_refused(text):
    with pytest.raises(StorageError, match="not valid JSON"):
        decode_json(text.encode(), "config.json")


HUGE = {
    "a wide layer": ("settings", "hidden", [10**9]),
    "layers of which each is possible": ("settings", "hidden", [100_000, 100_000]),
    "many layers": ("settings", "hidden", [1] * 50_000),
    "many latents": ("settings", "latent_dim", 10**7),
    "a large datum": ("facts", "event_shape", [10**5, 10**5]),
    "more than a number of the machine": ("settings", "latent_dim", 10**30),
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_beyond_the_weights_are_refused_before_a_network_of_them_is_made(case, run):
    part, key, value = HUGE[case]
    config = decode_json((run / "config.json").read_bytes())
    config["recipe"][part][key] = value
    largest = []
    real = torch.empty

    def watched(*size, **options):
        found = real(*size, **options)
        largest.append(found.numel())
        return found

    torch.empty = watched
    try:
        with pytest.raises(StorageError, match=r"config\.json: no pair can be built of it \((the sizes ask|recipe\.)"):
            ppl_vae.load(forged(run, "config.json", encode_json(config)))
    finally:
        torch.empty = real
    assert max(largest, default=0) < 1 << 22


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_built_within_the_ration_of_its_weights(name):
    recipe = RECIPES[name]
    facts = Facts((8, 8), binary=False, num_classes=10, steps_per_unit=None if name == "flow" else 16)
    pair = recipe.build(facts, recipe.settings)
    weights = {id(leaf): leaf.numel() for part in pair for leaf in part.parameters()}
    again = ppl_vae.recipes.rebuild(record(recipe, facts, recipe.settings), num_weights=sum(weights.values()))
    assert [len(list(part.parameters())) for part in again] == [len(list(part.parameters())) for part in pair]


def test_a_ration_counts_what_is_made_and_not_what_is_done_with_it():
    with Ration(5000):
        x = torch.ones(1000)
        for _ in range(50):
            x = torch.stack([x, x + 1]).sum(0)
        with pytest.raises(ValueError, match="more than the 5000 numbers"):
            torch.empty((10**6, 10**6))
    torch.empty(10**5)


def test_a_view_of_a_number_that_would_fill_the_memory_is_refused():
    """A file of a few bytes, whose view of them has 10^12 numbers."""
    raw = encode_tree({"a": torch.zeros(4), "b": torch.zeros(4)})
    base = torch.arange(4.0)
    assert decode_tree(encode_tree({"a": base, "b": base.expand(50, 4)}))["b"].shape == (50, 4)
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    tree = json.loads(header["__metadata__"]["tree"])
    tree["a"]["$tensor"] = ["t0", [10**6, 10**6], [0, 0], 0]
    with pytest.raises(StorageError, match="has a form that this version does not know"):
        decode_tree(with_header(raw, header, tree))


def with_header(raw: bytes, header: dict[str, Any], tree: Any) -> bytes:
    """The file with another skeleton, sealed."""
    size = int.from_bytes(raw[:8], "little")
    header = copy.deepcopy(header)
    header["__metadata__"] |= {"tree": json.dumps(tree), "sha256": "0" * 64}
    new = json.dumps(header).encode()
    new += b" " * (-len(new) % 8)
    return seal(len(new).to_bytes(8, "little") + new + raw[8 + size :])


# weights


def reweighted(run: Path, change) -> Path:
    weights = decode_tree((run / RunFolder.MODEL).read_bytes())
    name = "model.decoder.net.0.weight" if "model.decoder.net.0.weight" in weights else next(iter(weights))
    weights[name] = change(weights[name])
    return forged(run, RunFolder.MODEL, encode_tree(weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.double(), r"torch\.float32 is required, got torch\.float64"),
        (lambda t: t.bfloat16(), r"torch\.float32 is required, got torch\.bfloat16"),
        (lambda t: torch.full_like(t, torch.nan), "numbers are required, got nothing but NaN"),
        (lambda t: t.flatten(), r"config\.json: parameters\..*\.shape: \[\d+\] is required, as in model"),
        (lambda t: 1.0, r"must be a tensor, got 1\.0"),
    ],
)
def test_weights_of_another_kind_are_named(change, message, run):
    with pytest.raises(StorageError, match=message):
        ppl_vae.load(reweighted(run, change))


# wrong forms: every value of every file in JSON, and of the trees beside the tensors

WRONG = {
    bool: [0, "true", None, []],
    int: [-1, 1.5, "1", True, None, [1], {}, 10**40],
    float: ["1.0", None, [], {"$float": "nan"}, {"$float": 3}, True],
    str: [5, None, ["a"], {"$dict": 3}],
    list: [None, 3, {}, "abc", [None], [[]]],
    dict: [None, [], 3, "abc", {"$dict": [1]}, {"$tensor": ["t999"]}, {"$unknown": 1}],
    type(None): [[], {"a": 1}, True],
}
FREE = ("results",)  # numbers for people, which nothing reads


def places(value: Any, where: tuple = ()) -> list[tuple]:
    """Every place of plain data."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for key, item in inside for place in places(item, (*where, key)))]


def at(value: Any, where: tuple) -> Any:
    for key in where:
        value = value[key]
    return value


def replaced(value: Any, where: tuple, new: Any) -> Any:
    if not where:
        return new
    value = copy.deepcopy(value)
    at(value, where[:-1])[where[-1]] = new
    return value


def without(value: Any, where: tuple) -> Any:
    value = copy.deepcopy(value)
    del at(value, where[:-1])[where[-1]]
    return value


def mutations(content: Any, *, seed: int, most: int):
    """Wrong forms of plain data, some of all that the table has; and each dictionary without one of its keys."""
    found = []
    for where in places(content):
        if not set(where) & set(FREE):
            found += [(where, new) for new in WRONG[type(at(content, where))] if new != at(content, where)]
    draw = random.Random(seed)
    for where, new in draw.sample(found, min(most, len(found))):
        yield f"{where} = {new!r}"[:200], replaced(content, where, new)


OPTIONAL_NULL = {
    "config.json": [("recipe", "facts", "num_classes"), ("recipe", "facts", "steps_per_unit")]
    + [("fit", key) for key in ("clip_norm", "batch_size", "data_plate")],
    "environment.json": [],
}


def as_document(content: Any) -> bytes:
    """A sealed file of this content, which need not be one that the encoder would write."""
    document = {"sha256": "0" * 64, "format_version": 1, "content": content}
    return seal(json.dumps(document).encode())


def is_an_equal(name: str, label: str) -> bool:
    """Changes that leave a right form, of which nobody can know that it was another."""
    if label.startswith("('fit', 'seed')"):
        return True  # a seed may have any number of digits
    return any(label == f"{where} = None" for where in OPTIONAL_NULL.get(name, [])) or (
        name == "environment.json" and label.endswith("= None")
    )


def refusal(call, *allowed: type[Exception]) -> Exception | None:
    """What is raised, if it is one of these; None for nothing. Anything else is a failure."""
    try:
        call()
    except allowed as error:
        return error
    return None


@pytest.mark.parametrize(("name", "most"), [("config.json", 150), ("environment.json", 60)])
def test_a_wrong_form_in_a_file_of_json_is_named(name, most, run):
    content = json.loads((run / name).read_bytes())["content"]
    for label, changed in mutations(content, seed=0, most=most):
        forged(run, name, as_document(changed))
        error = refusal(lambda: ppl_vae.load(run), StorageError)
        assert error is not None or is_an_equal(name, label), label
        assert error is None or str(run) in str(error), label


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_missing_key_is_named(name, run):
    content = json.loads((run / name).read_bytes())["content"]
    needed = [w for w in places(content) if w and isinstance(at(content, w[:-1]), dict)]
    needed = [w for w in needed if w[0] != "fit" or len(w) == 1]  # a fit by hand says less of itself
    needed = [w for w in needed if w[0] not in ("latents", "parameters", "files") or len(w) in (1, 3)]
    needed = [w for w in needed if w[-1] != "format_version"]  # it is said in other words
    needed = [w for w in needed if w[-1] not in ("num_classes", "steps_per_unit", "size")]  # older runs lack them
    for where in needed:
        raw = as_document(without(content, where))
        forged(run, name, raw) if name != "manifest.json" else (run / name).write_bytes(raw)
        with pytest.raises((StorageError, ValueError), match=str(where[-1]).replace(".", r"\.")):
            ppl_vae.load(run)


def test_a_wrong_form_in_the_manifest_is_named(run):
    content = json.loads((run / "manifest.json").read_bytes())["content"]
    for label, changed in mutations(content, seed=1, most=80):
        (run / "manifest.json").write_bytes(as_document(changed))
        error = refusal(lambda: ppl_vae.load(run), StorageError)
        assert error is not None, label
        assert "manifest.json" in str(error), label


def test_a_wrong_form_in_the_state_is_named_by_load_and_by_resume(run, tmp_path):
    """The skeleton of the tree of tensors: where it is used by nobody, it may be anything that is plain."""
    raw = (run / RunFolder.STATE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    skeleton = json.loads(header["__metadata__"]["tree"])
    fit, _ = small_fit()
    pair = (fit.model, fit.guide)
    loaded = {("template",), ("history", "table"), ("step",), ("format",), ("tensors",), ("optimizer", "state")}
    for label, changed in mutations(skeleton, seed=2, most=120):
        (run / RunFolder.STATE).write_bytes(with_header(raw, header, changed))  # a checkpoint vouches for itself
        error = refusal(lambda: ppl_vae.load(run), StorageError)
        assert error is None or RunFolder.STATE in str(error), label
        options = {"epochs": 4, "progress": False, "checkpoint": run, "resume": True}
        resume = partial(ppl_vae.VariationalEM(*pair).fit, data(), **options)
        error = refusal(resume, StorageError, ResumeError, NonFiniteError)  # a rate may be any number
        assert not isinstance(error, StorageError) or RunFolder.STATE in str(error), label
    for where in loaded:
        for new in (None, 3, "abc", [], [None]):
            (run / RunFolder.STATE).write_bytes(with_header(raw, header, replaced(skeleton, where, new)))
            if new == at(skeleton, where) or (where, new) == (("step",), 3):
                continue
            with pytest.raises(StorageError, match=rf"state\.safetensors: .*{where[-1]}|state of format"):
                ppl_vae.load(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [("target", 5), ("epochs", "3"), ("lr", None), ("columns", "abc"), ("scale", [1]), ("data", ["x"])],
)
def test_a_plan_of_a_wrong_form_is_one_line_of_the_command(key, value, run):
    from click.testing import CliRunner

    from ppl_vae.cli import main

    config = decode_json((run / "config.json").read_bytes())
    plan = {"target": "vae", "data": "iris", "epochs": 3, "batch_size": 4, "lr": 0.1, "seed": 0, key: value}
    forged(run, "config.json", encode_json(replaced(config, ("fit", "source"), plan)))
    (run / RunFolder.CHECKPOINT).mkdir()
    (run / RunFolder.CHECKPOINT / RunFolder.CONFIG).write_bytes(encode_json(plan))
    for arguments in (["evaluate", str(run)], ["fit", "vae", "--out", str(run), "--resume"]):
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code == 2
        assert f"{key} must be" in found.output
