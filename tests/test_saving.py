"""A fit that is saved and loaded is the same fit; what is damaged, hostile or of another pair is refused by name."""

from __future__ import annotations

import pickle
from functools import partial

import arviz
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import CASES, Decoder, Encoder, LinearGaussian, data_for, function_pair
from pyro.infer.autoguide import AutoNormal
from runs import NUM_DATA, PER_EPOCH, Run, data, differences, networks, plain, seeded, snapshot
from torch import nn

import ppl_vae
from ppl_vae import KeepBest, VariationalEM
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.saving import tensors_of
from ppl_vae.storage import RunFolder, StorageError, decode_tree, encode_tree


def mean_field(start: int = 0):
    with seeded(start):
        return plain(start)[0], MeanField(num_data=NUM_DATA, latent_dim=2)


def methods(start: int = 0):
    module = LinearGaussian(seed=start, dtype=torch.float32)
    return module.model, module.guide


def modules(start: int = 0):
    with seeded(start):
        return Decoder(), Encoder()


def half_frozen(start: int = 0):
    model, guide = plain(start)
    with seeded(start):
        model.decoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))
    model.decoder[0].requires_grad_(False)
    return model, guide


def tied(start: int = 0):
    """One tensor under two names."""
    model, guide = plain(start)
    with seeded(start):
        model.decoder = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 3))
    model.decoder[1].weight = model.decoder[0].weight
    return model, guide


def autoguide(start: int = 0):
    model = CASES["AutoNormal"].make()[0]
    return model, AutoNormal(model)


def of_case(name: str, start: int = 0):
    with seeded(start):
        return CASES[name].make()


# by kind of pair: how to make it, how to fit it, and what load needs besides
PAIRS = {
    "networks": (networks, {}, {}),
    "functions": (lambda start=0: function_pair(), {}, {}),
    "pyro modules": (modules, {}, {}),
    "methods": (methods, {}, {}),
    "autoguide": (autoguide, {"fit": {}}, {}),
    "mean field": (mean_field, {}, {"data": data()}),
    "frozen layers": (half_frozen, {}, {}),
    "tied weights": (tied, {}, {}),
    "float64": (networks, {"em": {"dtype": torch.float64}}, {}),
    "data by name": (networks, {"rows": lambda: {"x": data()}}, {}),
    "best parameters": (
        networks,
        {"callbacks": lambda: [KeepBest()], "fit": {"batch_size": 4, "validation": data(9, seed=5)}},
        {},
    ),
    "PyroSample": (partial(of_case, "PyroSample"), {"rows": lambda: data_for(CASES["PyroSample"]), "fit": {}}, {}),
    "crossed plates": (partial(of_case, "crossed plates"), {"fit": {}}, {"data": data()}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_fit_comes_back_as_it_was(name, tmp_path):
    make, options, needed = PAIRS[name]
    run = Run(pair=make, **options)
    fit = run(2 * PER_EPOCH + 1)
    x = run.rows()
    kept = {key: tensor.detach().clone() for key, tensor in tensors_of(fit).items()}
    assert fit.save(tmp_path / "run") == tmp_path / "run"
    assert differences(kept, tensors_of(fit)) == []  # saving changes nothing
    again = ppl_vae.load(tmp_path / "run", *make(7), **needed)
    assert differences(kept, tensors_of(again)) == []
    assert differences(fit.params, again.params) == []
    assert fit.history.equals(again.history)
    assert torch.equal(fit.elbo(x, num_samples=4), again.elbo(x, num_samples=4))
    assert torch.equal(torch.as_tensor(fit.sample(2)), torch.as_tensor(again.sample(2)))
    assert again.config == fit.config
    assert (again.ended, again.steps, again.epochs) == (fit.ended, fit.steps, fit.epochs)
    assert again.seconds == pytest.approx(fit.seconds, abs=1e-3)
    assert repr(again) == repr(fit)
    assert again.dtype == fit.dtype
    with pytest.raises(RuntimeError, match=r"call VariationalEM\(model, guide, \.\.\.\)\.fit\(data, .* resume=True\)"):
        again.resume(steps=1)


def test_weights_that_are_not_loaded_break_the_law(tmp_path, monkeypatch):
    """The negative twin."""
    fit = Run()(5)
    fit.save(tmp_path / "run")
    monkeypatch.setattr("ppl_vae.loading.put_weights", lambda *_: None)
    again = ppl_vae.load(tmp_path / "run", *networks(7))
    assert differences(fit.params, again.params) != []
    assert not torch.equal(fit.elbo(data()), again.elbo(data()))


def test_a_loaded_fit_can_be_saved_and_loaded_again(tmp_path):
    fit = Run()(2 * PER_EPOCH)
    fit.save(tmp_path / "one")
    ppl_vae.load(tmp_path / "one", *networks(1)).save(tmp_path / "two")
    again = ppl_vae.load(tmp_path / "two", *networks(2))
    assert torch.equal(fit.elbo(data()), again.elbo(data()))
    assert fit.history.equals(again.history)
    assert repr(again) == repr(fit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_stepped_by_hand_can_be_saved(tmp_path, dtype):
    em = VariationalEM(*networks(), lr=0.05, dtype=dtype)
    for _ in range(4):
        em.step(data())
    fit = em.result()
    fit.save(tmp_path / "run")
    again = ppl_vae.load(tmp_path / "run", *networks(1))
    assert again.dtype == dtype
    assert torch.equal(fit.elbo(data()), again.elbo(data()))
    assert again.ended == "by hand"


def test_a_saved_run_is_resumed_from_its_folder(tmp_path):
    run = Run()
    run(6).save(tmp_path / "run")
    cut = run(13, folder=tmp_path / "run", resume=True, start=1)
    assert differences(snapshot(run(13)), snapshot(cut)) == []
    # the folder is still that of the save, with a later checkpoint in it
    again = ppl_vae.load(tmp_path / "run", *networks(2))
    assert differences(run(6).params, again.params) == []
    assert (again.steps, len(again.history)) == (6, 1)
    cut.save(tmp_path / "run", overwrite=True)
    assert ppl_vae.load(tmp_path / "run", *networks(2)).steps == 13


def test_the_best_parameters_are_saved_and_the_last_are_resumed(tmp_path):
    run = Run(callbacks=lambda: [KeepBest(metric="elbo")], em={"lr": 0.3})
    fit = run(6 * PER_EPOCH)
    best = fit.params
    fit.save(tmp_path / "run")
    assert differences(best, ppl_vae.load(tmp_path / "run", *networks(2)).params) == []
    cut = run(8 * PER_EPOCH, folder=tmp_path / "run", resume=True, start=1)
    assert differences(snapshot(run(8 * PER_EPOCH)), snapshot(cut)) == []


# the folder


def test_what_lies_in_the_folder(tmp_path):
    fit = Run(pair=plain)(5)
    fit.save(tmp_path / "run", data=data(), extra={"plots/note.txt": "hello"})
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    files = {"config.json", "model.safetensors", "state.safetensors", "history.csv", "environment.json", "README.md"}
    assert names == files | {"posterior.nc", "manifest.json", "plots/note.txt"}
    posterior = arviz.from_netcdf(str(tmp_path / "run" / "posterior.nc"))
    assert posterior.posterior["z"].shape[2:] == (NUM_DATA, 2)
    card = (tmp_path / "run" / "README.md").read_text()
    assert card.startswith("# VAE\n")
    assert "- ended: completed after 1 epochs, 5 steps" in card
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 2


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    one, two = Run()(2), Run()(3)
    one.save(tmp_path / "run")
    with pytest.raises(FileExistsError, match="there is a run here already"):
        two.save(tmp_path / "run")
    assert ppl_vae.load(tmp_path / "run", *networks(1)).steps == 2
    two.save(tmp_path / "run", overwrite=True)
    assert ppl_vae.load(tmp_path / "run", *networks(1)).steps == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="exists and is not a run folder"):
        two.save(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


# another pair is refused by name


def wider(start: int = 0):
    model, guide = plain(start)
    model.decoder = nn.Linear(2, 3, bias=False)
    return model, guide


def other_shape(start: int = 0):
    with seeded(start):
        model = VAE(nn.Linear(4, 3), latent_dim=4, likelihood="normal")
        return model, ppl_vae.guides.AmortizedNormal(nn.Linear(3, 8), latent_dim=4)


WRONG = {
    "a layer less": (wider, r"it is of another pair: no weights for \[\], unknown \['model\.decoder\.bias'\]"),
    "other layers": (networks, r"it is of another pair: no weights for \['buffer\.guide\.encoder\.1\."),
    "other shapes": (other_shape, r"decoder\.weight: shape \(3, 4\) is required, got \(3, 2\)"),
    "functions": (lambda start: function_pair(), r"it is of another pair: no weights for \['scale'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_of_another_pair_are_refused(name, tmp_path):
    make, message = WRONG[name]
    Run(pair=plain)(2).save(tmp_path / "run")
    with pytest.raises(StorageError, match=r"model\.safetensors: .*" + message):
        ppl_vae.load(tmp_path / "run", *make(1))


def with_state(folder, **changed):
    """A checkpoint vouches for itself: its state may be anything."""
    path = folder / RunFolder.STATE
    path.write_bytes(encode_tree({**decode_tree(path.read_bytes()), **changed}))


ROWS = {
    "width": (torch.zeros(2, 7), RuntimeError),
    "dtype": (torch.zeros(2, 3, dtype=torch.int64), ValueError),
    "NaN": (torch.full((2, 3), torch.nan), ValueError),
    "none": (torch.zeros(0, 3), ValueError),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_folder_that_do_not_fit_the_pair_are_named(name, tmp_path):
    rows, kind = ROWS[name]
    Run(pair=plain)(3).save(tmp_path)
    with_state(tmp_path, template={"args": [rows], "kwargs": {}})
    with pytest.raises(kind) as raised:
        ppl_vae.load(tmp_path, *plain(3))
    note = "\n".join(raised.value.__notes__)
    assert f"{RunFolder.STATE}: template has rows of shape {tuple(rows.shape)} {rows.dtype}" in note
    assert ppl_vae.load(tmp_path, *plain(3), data=data()).steps == 3  # the rows of the caller are taken for them


def test_a_plate_of_the_folder_that_the_pair_does_not_have_is_named(tmp_path):
    fit = Run(pair=plain)(3)
    fit.config["data_plate"] = "x"
    fit.save(tmp_path)
    with pytest.raises(ppl_vae.pair.DataAxisError) as raised:
        ppl_vae.load(tmp_path, *plain(3))
    assert f"{RunFolder.CONFIG}: fit.data_plate is 'x'" in "\n".join(raised.value.__notes__)


def test_load_wants_both_or_a_recipe(tmp_path):
    Run(pair=plain)(2).save(tmp_path / "run")
    with pytest.raises(ValueError, match="give both model and guide, or neither"):
        ppl_vae.load(tmp_path / "run", plain()[0])
    with pytest.raises(ValueError, match="is not of a recipe; give the model and the guide"):
        ppl_vae.load(tmp_path / "run")
    with pytest.raises(StorageError, match=r"manifest\.json: no such file; this is not a run folder"):
        ppl_vae.load(tmp_path / "nowhere", *plain())


def test_a_guide_that_knows_its_rows_says_what_load_needs(tmp_path):
    Run(pair=mean_field)(2).save(tmp_path / "run")
    with pytest.raises(ValueError, match="MeanField: all 14 rows, or index"):
        ppl_vae.load(tmp_path / "run", *mean_field(1))


# nothing that is read is run; what was changed is refused

FILES = [
    RunFolder.CONFIG,
    RunFolder.MODEL,
    RunFolder.STATE,
    RunFolder.HISTORY,
    RunFolder.ENVIRONMENT,
    RunFolder.README,
    RunFolder.POSTERIOR,
    RunFolder.MANIFEST,
]


class Canary:
    """Sings when it is unpickled."""

    sang: tuple = ()

    def __reduce__(self):
        return exec, ("import test_saving; test_saving.Canary.sang += (1,)",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    Run(pair=plain)(5).save(folder, data=data(6))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def replaced(saved, folder, name: str, content: bytes):
    folder.mkdir()
    for file, raw in {**saved, name: content}.items():
        (folder / file).write_bytes(raw)
    return folder


def test_the_canary_sings():
    pickle.loads(pickle.dumps(Canary()))
    assert Canary.sang
    Canary.sang = ()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pickle", "torch.save", "old pickle"])
def test_a_hostile_pickle_in_place_of_any_file_is_refused_and_not_run(name, kind, saved, tmp_path):
    if kind == "torch.save":
        torch.save(Canary(), tmp_path / "bird")
        content = (tmp_path / "bird").read_bytes()
    else:
        content = pickle.dumps(Canary(), protocol=2 if kind == "pickle" else 0)
    folder = replaced(saved, tmp_path / "run", name, content)
    message = {"pickle": "this is a pickle; refused", "torch.save": "refused", "old pickle": ""}[kind]
    with pytest.raises(StorageError, match=name.replace(".", r"\.") + f": .*{message}"):
        ppl_vae.load(folder, *plain(1))
    assert Canary.sang == ()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.1, 0.5, 0.9, 1])
def test_a_flipped_byte_in_any_file_is_named(name, place, saved, tmp_path):
    raw = bytearray(saved[name])
    raw[round(place * (len(raw) - 1))] ^= 4
    folder = replaced(saved, tmp_path / "run", name, bytes(raw))
    with pytest.raises(StorageError, match=name.replace(".", r"\.")):
        ppl_vae.load(folder, *plain(1))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_truncated_file_is_named(name, part, saved, tmp_path):
    folder = replaced(saved, tmp_path / "run", name, saved[name][: int(part * len(saved[name]))])
    with pytest.raises(StorageError, match=name.replace(".", r"\.")):
        ppl_vae.load(folder, *plain(1))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, saved, tmp_path):
    folder = replaced(saved, tmp_path / "run", name, b"")
    (folder / name).unlink()
    with pytest.raises(StorageError, match=name.replace(".", r"\.") + ": no such file"):
        ppl_vae.load(folder, *plain(1))


def test_the_untouched_folder_loads(saved, tmp_path):
    """What the refusals above are measured against."""
    folder = replaced(saved, tmp_path / "run", RunFolder.README, saved[RunFolder.README])
    assert ppl_vae.load(folder, *plain(1)).steps == 5


def test_names_in_a_config_are_not_looked_up_as_code(saved, tmp_path):
    """Whoever can write the manifest can write the config too: its words must still be no more than words."""
    folder = replaced(saved, tmp_path / "run", RunFolder.README, saved[RunFolder.README])
    run = RunFolder(folder)
    config = run.read_json(RunFolder.CONFIG)
    config["fit"]["dtype"] = "hub.load"
    run.write({RunFolder.CONFIG: config})
    with pytest.raises(StorageError, match="config"):
        ppl_vae.load(folder, *plain(1))
    config["fit"]["dtype"] = "float32"
    config["recipe"] = {"name": "os.system"}
    run.write({RunFolder.CONFIG: config})
    with pytest.raises((StorageError, ValueError), match=r"os\.system|recipe"):
        ppl_vae.load(folder)


# frozen parameters are part of the fit, though no optimizer moves them


def test_frozen_layers_that_are_not_saved_break_the_law(tmp_path, monkeypatch):
    """The negative twin: what is not trained, another process makes anew."""
    fit = Run(pair=half_frozen)(3)
    monkeypatch.setattr(ppl_vae.Pair, "frozen_by_name", lambda self: {})
    fit.save(tmp_path / "run")
    again = ppl_vae.load(tmp_path / "run", *half_frozen(7))
    assert not torch.equal(fit.elbo(data()), again.elbo(data()))


def test_a_model_with_named_data_plate_is_loaded(tmp_path):
    """Two plates over as many rows: the saved name tells them apart."""

    def pair():
        def model(x):
            shift = pyro.param("shift", torch.zeros(3))
            rows, columns = pyro.plate("rows", len(x), dim=-1), pyro.plate("columns", NUM_DATA, dim=-1)
            with columns:
                pyro.sample("w", dist.Normal(0.0, 1.0))
            with rows:
                pyro.sample("x", dist.Normal(shift, 1.0).to_event(1), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.zeros(NUM_DATA))
            with pyro.plate("columns", NUM_DATA, dim=-1):
                pyro.sample("w", dist.Normal(loc, 1.0))

        return model, guide

    with pytest.raises(ppl_vae.pair.DataAxisError, match="name the data's with data_plate="):
        VariationalEM(*pair()).fit(data(), steps=1)
    fit = VariationalEM(*pair(), data_plate="rows").fit(data(), steps=3)
    fit.save(tmp_path / "run")
    again = ppl_vae.load(tmp_path / "run", *pair())
    assert again.data_plate == "rows"
    assert torch.equal(fit.elbo(data()), again.elbo(data()))


# weights stand once


def tensors_in(path) -> int:
    """Numbers that a file of tensors holds."""
    from safetensors.torch import load_file

    return sum(tensor.numel() for tensor in load_file(path).values())


def test_weights_stand_once_in_a_run_folder(tmp_path):
    """The state of a run by Adam is two numbers a weight, and the weights are those of the model file."""
    fit = Run()(2 * PER_EPOCH)
    fit.save(tmp_path / "run")
    weights = sum(leaf.numel() for leaf in fit.parameters_by_name().values())
    assert tensors_in(tmp_path / "run" / RunFolder.MODEL) >= weights
    assert 2 * weights < tensors_in(tmp_path / "run" / RunFolder.STATE) < 3 * weights


def test_the_best_epoch_and_the_last_are_both_kept(tmp_path):
    """The model file has the best parameters, the state those from which a run goes on."""
    run = Run(callbacks=lambda: [KeepBest(metric="elbo")], em={"lr": 0.4})
    fit = run(6 * PER_EPOCH)
    assert int(fit.history["elbo"].idxmax()) < 5
    fit.save(tmp_path / "run")
    again = run(8 * PER_EPOCH, folder=tmp_path / "run", resume=True, start=1)
    assert differences(snapshot(run(8 * PER_EPOCH)), snapshot(again)) == []
    loaded = ppl_vae.load(tmp_path / "run", *networks(3))
    assert all(torch.equal(value, fit.params[name]) for name, value in loaded.params.items())


def test_a_saved_run_goes_on_to_the_bit(tmp_path):
    """Its state alone has no weights; after a checkpoint it has, and the model file is another's."""
    whole = Run()(10)
    Run()(6).save(tmp_path / "run")
    cut = Run()(8, folder=tmp_path / "run", resume=True, start=1)
    assert cut.steps == 8
    again = Run()(10, folder=tmp_path / "run", resume=True, start=2)
    assert differences(snapshot(whole), snapshot(again)) == []


def test_a_state_whose_model_file_is_anothers_is_refused(tmp_path):
    Run()(6).save(tmp_path / "run")
    Run()(7, start=1).save(tmp_path / "other")
    (tmp_path / "run" / RunFolder.MODEL).write_bytes((tmp_path / "other" / RunFolder.MODEL).read_bytes())
    with pytest.raises(StorageError, match="does not match the manifest"):
        Run()(8, folder=tmp_path / "run", resume=True)


def test_a_state_of_a_layout_to_come_is_refused_by_name(tmp_path):
    from ppl_vae.storage import load_tree, save_tree

    Run()(4, folder=tmp_path)
    path = tmp_path / RunFolder.STATE
    save_tree(path, {**load_tree(path), "format": 99})
    with pytest.raises(StorageError, match="a state of format 1 or 2 is required, got 99"):
        Run()(8, folder=tmp_path, resume=True)


class Scratch(nn.Module):
    """A layer with a buffer that it does not keep, and does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 3)
        self.register_buffer("seen", torch.zeros(5), persistent=False)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, z):
        if self.training:
            self.seen.add_(1.0)
            self.count.add_(1.0)
        return self.net(z)


def scratch(start: int = 0):
    model, guide = plain(start)
    with seeded(start):
        model.decoder = Scratch()
    return model, guide


def test_buffers_that_are_not_persistent_are_not_written(tmp_path):
    fit = VariationalEM(*scratch()).fit(data(), steps=3, progress=False, checkpoint=tmp_path / "c")
    assert [name for name in fit.buffers_by_name() if "decoder" in name] == ["model.decoder.count"]
    fit.save(tmp_path / "run")
    loaded = ppl_vae.load(tmp_path / "run", *scratch(1))
    assert float(loaded.model.decoder.count) == 3
    assert float(loaded.model.decoder.seen.sum()) == 0


def test_folders_in_which_they_were_written_still_load(tmp_path, monkeypatch):
    """As the builds before this one did."""
    from ppl_vae.pair import parameters

    kept = parameters.buffers_of
    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.pair.pair.buffers_of", lambda *fns: kept(*fns, every=True))
        old = VariationalEM(*scratch())
        old.fit(data(), steps=3, progress=False, checkpoint=tmp_path / "c").save(tmp_path / "run")
    assert float(ppl_vae.load(tmp_path / "run", *scratch(1)).model.decoder.count) == 3
    fit = VariationalEM(*scratch(1)).fit(data(), steps=5, progress=False, checkpoint=tmp_path / "c", resume=True)
    assert float(fit.model.decoder.count) == 5
