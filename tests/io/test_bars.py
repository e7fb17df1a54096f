"""Long work says how far it is, where no result stands; without a terminal in lines, and not too often."""

from monopose.io import bars


def test_without_a_terminal_lines_come_on_standard_error_alone(monkeypatch, capsys):
    monkeypatch.setattr(bars, "EVERY_S", -1.0)
    assert list(bars.watched("abc", "pictures", 3)) == list("abc")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["pictures: 1 of 3, about 1 min left", "pictures: 2 of 3, about 1 min left"]


def test_what_takes_less_than_a_minute_says_nothing(capsys):
    with bars.Bar("pictures", 5, done=2) as bar:
        bar.advance(3)
    assert list(bars.watched("ab", "pictures", 2, shown=False)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
