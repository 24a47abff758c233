"""What a message may hold, whatever strangers named their files."""

from bridgeflow.errors import UsageError
from bridgeflow.sentences import LONGEST, printable, tidy


def test_sentences_are_printable_and_of_bounded_length() -> None:
    assert printable("a\x1b[0m\u202eb\udce9\n\u2028é漢👩‍👧") == r"a\x1b[0m\u202eb\udce9\x0a\u2028é漢👩‍👧"
    assert str(UsageError("x" * 10_000_000 + " fix it.")).endswith("x fix it.")
    assert len(tidy("y" * 10_000_000)) <= LONGEST
    listed = str(UsageError("it has mistakes:" + "".join(f"\n  mistake {i}" for i in range(1000))))
    assert listed.splitlines()[1] == "  mistake 0"
    assert listed.splitlines()[-1] == "  and 961 more."
