"""Tables as people have them: names, dates, words, holes, decimal commas; and which columns are modelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_vae.data import load_file
from ppl_vae.data.table import ColumnsError

ROWS = [
    ("A1", "2024-01-02", "fine, thanks", 3, "setosa", 1.5, 170.25, 0),
    ("A2", "2024-01-03", "looks; odd", 5, "virginica", 2.25, 181.0, 1),
    ("A3", "2024-01-04", "ok", 0, "setosa", 3.0, 165.5, 1),
    ("A4", "2024-01-05", "42", 7, "virginica", 0.5, 177.75, 0),
]
NAMES = ("id", "date", "comment", "visits", "species", "width", "height", "member")
CHOICE = {"index": "id", "label": "species", "drop": "date,comment"}


def cell(value: object, *, comma: bool) -> str:
    text = str(value)
    if isinstance(value, str) and ("," in text or ";" in text):
        return f'"{text}"'
    return text.replace(".", ",") if comma and isinstance(value, float) else text


def written(path, *, delimiter=",", comma=False, header=True, rows=ROWS, encoding="utf-8"):
    lines = [delimiter.join(NAMES)] if header else []
    lines += [delimiter.join(cell(value, comma=comma) for value in row) for row in rows]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    return path


DIALECTS = {
    "commas": {},
    "semicolons with decimal commas": {"delimiter": ";", "comma": True},
    "semicolons with decimal points": {"delimiter": ";"},
    "tabs": {"delimiter": "\t"},
    "a byte order mark": {"encoding": "utf-8-sig"},
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_rows(tmp_path, name):
    data = load_file(written(tmp_path / "t.csv", **DIALECTS[name]), **CHOICE)
    expected = [[row[i] for i in (3, 5, 6, 7)] for row in ROWS]
    assert torch.equal(data.train, torch.tensor(expected))
    assert data.feature_names == ("visits", "width", "height", "member")
    assert (data.train_index, data.index_name) == (("A1", "A2", "A3", "A4"), "id")
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert data.label_names == ("setosa", "virginica")
    assert ("numbers have decimal commas" in data.notes) == ("decimal commas" in name)


def test_all_bad_columns_are_in_one_message_with_what_to_do(tmp_path):
    holed = [list(row) for row in ROWS]
    holed[1][5] = holed[2][5] = ""
    holed[3][6] = "inf"
    path = written(tmp_path / "t.csv", rows=holed * 3)
    with pytest.raises(ColumnsError) as caught:
        load_file(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("t.csv must hold numbers, and 6 of 8 columns do not:")
    said = {line.split()[0]: line for line in lines[1:-1]}
    assert list(said) == ["id", "date", "comment", "species", "width", "height"]
    assert "words, 4 different (A1, A2, A3, A4): --label id" in said["id"]
    assert "dates or times ('2024-01-02' at row 0): --drop date" in said["date"]
    assert "9 of 12 cells are no numbers ('fine, thanks' at row 0): --drop comment" in said["comment"]
    assert "--label species (classes beside the model), or --drop species" in said["species"]
    assert "6 of 12 cells are empty (the first at row 1): fill them in the file, or --drop width" in said["width"]
    assert "infinity at row 3: --drop height" in said["height"]
    assert lines[-1] == "all at once: --label species --drop id,date,comment,width,height"


def test_what_the_message_says_can_be_done(tmp_path):
    path = written(tmp_path / "t.csv")
    with pytest.raises(ColumnsError, match="all at once: --index id --label species --drop date,comment$"):
        load_file(path)
    assert load_file(path, **CHOICE).train.shape == (4, 4)


def test_columns_are_kept_in_the_order_asked_for(tmp_path):
    data = load_file(written(tmp_path / "t.csv"), columns=["height", "visits"])
    assert data.feature_names == ("height", "visits")
    assert data.train[1].tolist() == [181.0, 5.0]


def test_a_table_without_names_is_not_robbed_of_its_first_row(tmp_path):
    """As the iris of the UCI repository: the words of the first line come again."""
    (tmp_path / "iris.csv").write_text("5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n")
    data = load_file(tmp_path / "iris.csv", label="2")
    assert data.train.shape == (3, 2)
    assert data.feature_names is None
    assert data.label_names == ("setosa", "virginica")


@pytest.mark.parametrize(
    ("text", "options", "train"),
    [
        ("a;b\n1.234,5;2,5\n", {}, "1 of 1 cells are no numbers|words"),
        ("a;b\n1.234;2,5\n", {}, r"1.234 \(thousands\?\)"),
        ("a,b\n1,True\n2,false\n", {}, [[1.0, 1.0], [2.0, 0.0]]),
        ("a,b,\n1,2,\n3,4,\n", {}, [[1.0, 2.0], [3.0, 4.0]]),
        ("a;b\n1;2\n;\n;\n3;4\n", {}, [[1.0, 2.0], [3.0, 4.0]]),
        ("a,a\n1,2\n", {"columns": "a.1"}, [[2.0]]),
        (",a\n0,5\n1,6\n", {"drop": "column 0"}, [[5.0], [6.0]]),
        ("a b,c\n1,2\n", {"columns": "c, a b"}, [[2.0, 1.0]]),
        ('"a,b",c\n1,2\n', {"columns": "a,b"}, [[1.0]]),
        ("a,b\n1e300,2\n", {}, "'1e300' at row 0"),
    ],
)
def test_what_programs_write(tmp_path, text, options, train):
    (tmp_path / "t.csv").write_text(text)
    if isinstance(train, str):
        with pytest.raises(ColumnsError, match=train):
            load_file(tmp_path / "t.csv", **options)
    else:
        assert load_file(tmp_path / "t.csv", **options).train.tolist() == train


REFUSED = {
    "an unknown column": ({"drop": "widht"}, r"there is no column 'widht'; did you mean 'width'\?"),
    "an unknown column, far off": ({"label": "zzz"}, "there is no column 'zzz'; there are id, date"),
    "two roles": ({"columns": "visits,width", "label": "visits"}, "'visits' has keep and label"),
    "none left": ({"drop": ",".join(NAMES)}, "at least one must be left to be modelled"),
    "a label of fractions": ({**CHOICE, "label": "width", "drop": "date,comment,species"}, "column 'width' holds frac"),
    "pictures": ({**CHOICE, "grey": True}, "must be a folder of pictures to be made grey"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_choice_that_does_not_fit_is_refused(tmp_path, name):
    options, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        load_file(written(tmp_path / "t.csv"), **options)


def test_labels_may_be_numbers_and_may_be_missing(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n1,7\n2,\n3,-2\n4,7\n")
    data = load_file(tmp_path / "t.csv", label="y")
    assert data.train_labels.tolist() == [1, -1, 0, 1]
    assert data.label_names == ("-2", "7")
    again = load_file(tmp_path / "t.csv", label="y", class_names=("7", "9"))
    assert again.train_labels.tolist() == [0, -1, -1, 0]


def test_a_hole_in_the_index_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("id,x\na,1\n,2\n")
    with pytest.raises(ValueError, match="every row needs a name, column 'id' is empty at row 1"):
        load_file(tmp_path / "t.csv", index="id")


def test_a_column_that_counts_the_rows_is_pointed_out(tmp_path):
    (tmp_path / "t.csv").write_text("n,x\n1,5\n2,7\n3,6\n")
    assert load_file(tmp_path / "t.csv").notes == ("column 'n' counts the rows; --index n keeps it as their names",)
    assert load_file(tmp_path / "t.csv", index="n").notes == ()


def test_columns_of_an_array_have_numbers(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1.0, 5.0, 0.0], [2.0, 6.0, 1.0]]))
    data = load_file(tmp_path / "a.npy", label="2", index="0")
    assert data.train.tolist() == [[5.0], [6.0]]
    assert data.train_labels.tolist() == [0, 1]
    assert data.train_index == ("1", "2")


@pytest.mark.parametrize(
    ("shape", "event", "image"),
    [
        ((5, 4, 3), (4, 3), (1, 4, 3)),
        ((5, 1, 4, 3), (1, 4, 3), (1, 4, 3)),
        ((5, 3, 4, 6), (3, 4, 6), (3, 4, 6)),
        ((5, 4, 6, 3), (3, 4, 6), (3, 4, 6)),
        ((5, 12), (12,), None),
        ((5, 2, 4, 6), (2, 4, 6), None),
    ],
)
def test_arrays_of_the_shape_of_images_are_images(tmp_path, shape, event, image):
    array = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "a.npy", array)
    data = load_file(tmp_path / "a.npy")
    assert (data.event_shape, data.image_shape) == (event, image)
    if shape[-1] == 3 and len(shape) == 4 and shape[1] != 1:
        assert np.allclose(data.train[2, 1], array[2, :, :, 1])


@pytest.mark.parametrize(
    ("text", "names", "rows", "said"),
    [
        # unique names of rows, no header: the first line is a row as any other
        ("C000,20,0\nC001,21,7\nC002,35,3\n", None, 3, "'C000, 20, 0' is taken for a row"),
        ("anna,20,0\nbob,21,7\ncarl,35,3\n", None, 3, "'anna, 20, 0' is taken for a row"),
        ("2024-01-01,5,100000\n2024-01-02,900,2\n", None, 2, "is taken for a row"),
        ("ab1,7\nab2,800\nab10,900\n", None, 3, "is taken for a row"),
        # names, of which some are numbers
        ("x,y,2020,2021\n1,2,1900,2500\n3,4,2300,2400\n", ("y", "2020", "2021"), 2, "taken for the names of columns"),
        ("who,2020,2021\nanna,1.5,2.5\nbob,3.5,0.5\n", ("2020", "2021"), 2, "taken for the names of columns"),
        ("who,0,1,2\nanna,1.5,2.5,0\nbob,3.5,0.5,0\n", ("0", "1", "2"), 2, "taken for the names of columns"),
        # names, beyond doubt
        ("id,a,b\nC000,20,0\nC001,21,7\n", ("a", "b"), 2, ""),
        ("x1,x2,x3\n1,2,3\n4,5,6\n", ("x2", "x3"), 2, ""),
    ],
)
def test_the_first_line_is_one_of_names_or_a_row(tmp_path, text, names, rows, said):
    (tmp_path / "t.csv").write_text(text)
    first = "0" if names is None else text.partition(",")[0]
    data = load_file(tmp_path / "t.csv", index=first)
    assert data.feature_names == names
    assert len(data.train) == rows and len(data.train_index) == rows
    assert any(said in note for note in data.notes) if said else not any("first line" in note for note in data.notes)


@pytest.mark.parametrize("words", [("None", "NA", "null"), ("True", "False", "true"), ("NaN", "n/a", "copper")])
def test_classes_and_names_of_rows_keep_their_text(tmp_path, words):
    """What stands for no number, or for 0 and 1, among numbers is a word among words; an empty cell is a hole."""
    lines = [f"{word}{i},{word},{i}.5" for i, word in enumerate(words)] + ["NA,,7.5", "True,,8.5"]
    (tmp_path / "t.csv").write_text("\n".join(["who,kind,x", *lines]))
    data = load_file(tmp_path / "t.csv", index="who", label="kind")
    assert data.label_names == tuple(sorted(words))
    assert [data.label_names[i] if i >= 0 else "" for i in data.train_labels.tolist()] == [*words, "", ""]
    assert data.train_index == (*(f"{word}{i}" for i, word in enumerate(words)), "NA", "True")
    absent = [note for note in data.notes if "a row without a class has an empty cell" in note]
    assert len(absent) == (words[0] != "True")


def test_among_numbers_the_same_words_are_holes_and_zeros_and_ones(tmp_path):
    (tmp_path / "t.csv").write_text("x,y\n1,True\n2,false\n")
    assert load_file(tmp_path / "t.csv").train.tolist() == [[1.0, 1.0], [2.0, 0.0]]
    (tmp_path / "t.csv").write_text("x,y,z\n1,True,zinc\nNA,false,None\n3,None,NA\n")
    with pytest.raises(ColumnsError) as caught:
        load_file(tmp_path / "t.csv")
    assert "x  1 of 3 cells is empty (the first at row 1)" in str(caught.value)
    assert "y  1 of 3 cells is empty (the first at row 2)" in str(caught.value)
    assert "z  words, all different ('zinc' at row 0)" in str(caught.value)


def test_classes_without_a_number_are_named_and_keep_their_text(tmp_path):
    (tmp_path / "t.csv").write_text("x,kind\n1.5,zinc\n2.5,platinum\n3.5,\n4.5,copper\n")
    data = load_file(tmp_path / "t.csv", label="kind", class_names=("copper", "zinc"))
    assert data.train_labels.tolist() == [1, -1, -1, 0]
    assert data.train_label_text == ("zinc", "platinum", "", "copper")
    assert any("a class that the run has not: 'platinum' (1 row)" in note for note in data.notes)


def test_classes_of_a_run_from_before_are_found_again(tmp_path):
    (tmp_path / "t.csv").write_text("x,kind\n1.5,True\n2.5,False\n")
    data = load_file(tmp_path / "t.csv", label="kind", class_names=("0", "1"))
    assert data.train_labels.tolist() == [1, 0] and data.train_label_text is None


def test_the_label_proposed_is_the_column_of_the_fewest_words(tmp_path):
    remarks = [f"it was number {i % 7} of some" for i in range(40)]
    metals = [("copper", "zinc", "tin")[i % 3] for i in range(40)]
    lines = [f"{remark},unit,{metal},{i}.5" for i, (remark, metal) in enumerate(zip(remarks, metals, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["remark,constant,metal,x", *lines]))
    with pytest.raises(ColumnsError, match="all at once: --label metal --drop remark,constant$"):
        load_file(tmp_path / "t.csv")


def test_no_label_is_proposed_where_hardly_a_word_comes_again(tmp_path):
    lines = [f"said {max(i, 1)},note {max(i, 2)},{i}.5" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["remark,other,x", *lines]))
    with pytest.raises(ColumnsError, match="all at once: --drop remark,other$"):
        load_file(tmp_path / "t.csv")


def test_four_classes_of_ten_rows_are_classes(tmp_path):
    kinds = "abcdabcdab"
    (tmp_path / "t.csv").write_text("\n".join(["kind,x", *(f"{kind},{i}.5" for i, kind in enumerate(kinds))]))
    with pytest.raises(ColumnsError, match="--label kind"):
        load_file(tmp_path / "t.csv")
