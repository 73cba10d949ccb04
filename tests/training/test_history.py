"""The history: one row an epoch, averages over the rows of the data, whenever it is read."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from pyro.infer import Trace_ELBO
from runs import BATCH, PER_EPOCH, Run, data, differences, no_latents, plain
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import IWAE, Callback, VariationalEM
from ppl_vae.objectives import ELBO
from ppl_vae.storage import decode_tree, encode_tree
from ppl_vae.training import read_state
from ppl_vae.training.history import History
from ppl_vae.training.history_table import Table

COLUMNS = ["epoch", "step", "lr", "objective", "elbo", "reconstruction", "kl"]


def test_columns_and_rows():
    fit = Run()(3 * PER_EPOCH + 1)
    assert isinstance(fit.history, pd.DataFrame)
    assert list(fit.history.columns) == COLUMNS
    assert fit.history["epoch"].tolist() == [0, 1, 2]
    assert fit.history["step"].tolist() == [4, 8, 12]
    assert fit.epochs == 3
    assert fit.steps == 13


def test_columns_with_validation():
    fit = Run(fit={"batch_size": BATCH, "validation": data(5)})(PER_EPOCH)
    validated = ["val_objective", "val_elbo", "val_reconstruction", "val_kl"]
    assert sorted(fit.history.columns) == sorted([*COLUMNS, *validated])


def test_before_the_first_epoch_there_are_no_rows():
    assert len(Run()(2).history) == 0


OBJECTIVES = {
    "elbo": (ELBO(), True),
    "beta": (ELBO(beta=0.3), False),
    "free bits": (ELBO(free_bits=1.0), False),
    "iwae": (IWAE(5), False),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_elbo_is_that_of_beta_one_whatever_is_maximized(name):
    objective, same = OBJECTIVES[name]
    history = Run(em={"objective": objective})(3 * PER_EPOCH).history
    assert history["elbo"].to_numpy() == pytest.approx((history["reconstruction"] - history["kl"]).to_numpy(), rel=1e-5)
    assert (history["objective"].to_list() == pytest.approx(history["elbo"].to_list(), rel=1e-5)) == same


def test_a_loss_of_pyro_says_what_it_can():
    history = Run(em={"objective": Trace_ELBO()})(PER_EPOCH).history
    assert history["objective"].iloc[0] == history["elbo"].iloc[0]
    assert history[["reconstruction", "kl"]].isna().all().all()


# averages are weighted by rows


def uneven() -> torch.Tensor:
    """14 rows of which the last batch (2 rows) of the first epoch, and no other, is far off."""
    from ppl_vae.data import Rows
    from ppl_vae.data.batches import SourceBatches

    x = data(dtype=torch.float64)
    last = list(SourceBatches(Rows.of(x), BATCH, with_index=True).epoch(0, 0))[-1].index
    x[last] += 30.0
    return x


def standing_still(x, **fit) -> tuple[pd.DataFrame, float]:
    """A run that does not move, and the exact mean of its objective over the data."""
    em = VariationalEM(*no_latents(), optimizer=torch.optim.SGD, lr=1e-300, dtype=torch.float64)
    history = em.fit(x, epochs=1, batch_size=BATCH, **fit).history
    return history, em.evaluate(x)["objective"]


@pytest.mark.parametrize("watched", [False, True])
def test_epochs_are_averaged_over_rows(watched):
    history, exact = standing_still(uneven(), callbacks=[Callback()] if watched else [])
    assert history["objective"].iloc[0] == pytest.approx(exact, rel=1e-12)


def test_validation_is_averaged_over_rows():
    x = uneven()
    history, exact = standing_still(x, validation=x)
    assert history["val_objective"].iloc[0] == pytest.approx(exact, rel=1e-12)


def test_validation_may_come_from_a_loader():
    x = uneven()
    loader = DataLoader(TensorDataset(x), batch_size=5)
    history, exact = standing_still(data(dtype=torch.float64), validation=loader)
    assert history["val_objective"].iloc[0] == pytest.approx(standing_still(x)[1], rel=1e-12)
    assert history["val_objective"].iloc[0] != pytest.approx(exact)


def test_an_average_over_batches_breaks_the_law(monkeypatch):
    """The negative twin: every batch counts the same."""
    kept = History.add
    monkeypatch.setattr(History, "add", lambda self, report, size: kept(self, report, 1))
    history, exact = standing_still(uneven())
    assert abs(history["objective"].iloc[0] - exact) > 10


def test_evaluate_of_pieces_is_that_of_the_whole():
    x = uneven()
    em = VariationalEM(*no_latents(), dtype=torch.float64)
    whole = em.evaluate(x)
    for size in (1, 3, 4, 14, 99):
        assert em.evaluate(x, batch_size=size) == pytest.approx(whole, rel=1e-12)


# read late or early


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["read late", "read at once"])
def test_many_epochs_in_one_check(callbacks):
    """All rows at once: each step is an epoch, and rows are read in bulk."""
    fit = Run(fit={})(130, callbacks=list(callbacks))
    assert fit.history["epoch"].tolist() == list(range(130))
    assert fit.history["step"].tolist() == list(range(1, 131))
    assert fit.history.equals(Run(fit={})(130).history)


def report(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_reports_by_hand():
    history = History()
    history.add(report(1.0, 2.0, 3.0, 4.0), 1)
    history.add(report(4.0, 5.0, 6.0, 7.0), 2)
    assert history.read() == []
    history.close_epoch({"epoch": 0})
    assert history.read() == [{"epoch": 0, "objective": 3.0, "elbo": 4.0, "reconstruction": 5.0, "kl": 6.0}]
    assert history.read() == []
    assert history.columns() == ["epoch", "objective", "elbo", "reconstruction", "kl"]
    assert history.last == history.rows[-1]


def lengthen(history: History, start: int, stop: int) -> None:
    """Steps with epochs of two."""
    for t in range(start, stop):
        history.add(report(t, t / 3, -t, 0.1), 1 + t % 3)
        if t % 2:
            history.close_epoch({"epoch": t // 2, "step": t + 1})


@pytest.mark.parametrize("read_often", [False, True])
@pytest.mark.parametrize("place", range(6))
def test_a_history_goes_back_to_a_mark(place, read_often):
    """Also across the ends of epochs, and after what came later was read."""
    history, short = History(), History()
    for h in (history, short):
        lengthen(h, 0, place)
    mark = history.mark()
    for t in range(place, 9):
        lengthen(history, t, t + 1)
        if read_often:
            history.read()
    history.back_to(mark)
    assert differences(history.state(), short.state() if short.mark() else None) == []
    for h in (history, short):
        lengthen(h, place, 7)
        h.read()
    assert history.rows == short.rows
    assert differences(history.state(), short.state()) == []


def test_what_a_callback_adds_to_the_latest_row_is_kept():
    history = History()
    lengthen(history, 0, 2)
    row = history.read()[0]
    row["mine"] = 7.5
    assert history.rows[0]["mine"] == 7.5
    lengthen(history, 2, 4)
    history.read()
    assert [r.get("mine") for r in history.rows] == [7.5, None]
    assert history.table().columns()["mine"][0] == 7.5


def test_the_table_gives_back_what_it_got():
    """Whole numbers stay whole, a missing one is missing, and NaN is a number."""
    rows_ = [
        {"epoch": 0, "elbo": -1.5, "val": float("nan")},
        {"epoch": 1, "elbo": 2, "note": "a word"},
        {"epoch": 2**40, "elbo": float("-inf"), "late": 3, "val": 0.1},
    ]
    table = Table()
    for row in rows_:
        table.append(row)
    for found in (table, Table.of(decode_tree(encode_tree(table.state())))):
        assert [repr(row) for row in found] == [
            "{'epoch': 0, 'elbo': -1.5, 'val': nan}",
            "{'epoch': 1, 'elbo': 2.0, 'note': 'a word'}",
            "{'epoch': 1099511627776, 'elbo': -inf, 'val': 0.1, 'late': 3}",
        ]
        frame = pd.DataFrame(found.columns())
        assert frame["epoch"].dtype == "int64"
        assert frame["late"].isna().tolist() == [True, True, False]
        assert frame["note"].tolist()[1] == "a word"
    table.cut(1)
    assert list(map(repr, table)) == ["{'epoch': 0, 'elbo': -1.5, 'val': nan}"]


def test_a_long_history_is_a_small_part_of_a_checkpoint(tmp_path):
    """600,000 epochs were more than the header of a safetensors file holds, as which they were written."""
    fit = Run(pair=plain, fit={})(2)
    table = fit.trainer.history.table()
    for i in range(2, 600_000):
        table.append({**dict.fromkeys(COLUMNS, -1.5), "epoch": i, "step": i + 1})
    fit.trainer.checkpoint.path = tmp_path / "state.safetensors"
    fit.trainer.save()
    assert (tmp_path / "state.safetensors").stat().st_size < 8.1 * 7 * 600_000
    again = Table.of(read_state(tmp_path / "state.safetensors")["history"]["table"])
    assert (len(again), again[-1]["epoch"]) == (600_000, 599_999)


def test_the_state_of_a_history_is_all_of_it():
    history = History()
    history.add(report(1.0, 2.0, 3.0, 4.0), 3)
    history.close_epoch({"epoch": 0})
    history.add(report(5.0, 6.0, 7.0, 8.0), 2)
    history.read()
    again = History()
    again.load_state(history.state())
    for h in (history, again):
        h.add(report(1.0, 1.0, 1.0, 1.0), 1)
        h.close_epoch({"epoch": 1})
        h.read()
    assert again.rows == history.rows
    assert len(history.rows) == 2
