import pytest

from bertkit import errors
from bertkit.errors import BertkitError, did_you_mean, joined, one_line


def test_every_error_is_a_bertkit_error_and_in_the_tree():
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) == 6
    for kind in kinds:
        assert issubclass(kind, BertkitError)
        assert kind.__name__ in (errors.__doc__ or "")


def test_error_is_one_printable_line():
    assert str(BertkitError("a\nb\t c\x1b[31m\x00")) == "a b c[31m"
    assert one_line("x\u202ey") == "xy"


@pytest.mark.parametrize(("name", "expected"), [("sst-2", " Did you mean 'sst2'?"), ("zzz", ""), ("", "")])
def test_did_you_mean_names_the_nearest(name, expected):
    assert did_you_mean(name, ["sst2", "cola"]) == expected


def test_joined_shows_the_first_and_counts_the_rest():
    assert joined("ab") == "a; b"
    assert joined(iter("abcd"), most=2) == "a; b; and 2 more"
