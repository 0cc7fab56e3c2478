"""Numbers with their nouns, names that cannot control a terminal, words that can be pasted into a
shell.
"""

from __future__ import annotations

from distcnn.system.wording import being, counted, duration, number_ranges, plural, printable


def test_one_and_many() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 1407)] == [
        "0 steps",
        "1 step",
        "2 steps",
        "1,407 steps",
    ]
    assert [counted(number, "class") for number in (1, 10)] == ["1 class", "10 classes"]
    assert counted(2, "test image") == "2 test images"
    assert [plural(2, word) for word in ("batch", "epoch")] == ["batches", "epochs"]
    assert [plural(number, "core") for number in (0.5, 1.0, 2)] == ["cores", "core", "cores"]


def test_durations_have_two_units_at_most() -> None:
    seconds = [0.04, 3.46, 9.94, 9.96, 59.6, 72, 3599.6, 7500, 7229, 86_400 + 3 * 3600, 3e5]
    assert [duration(number) for number in seconds] == [
        *("0.04 s", "3.5 s", "9.9 s", "10 s", "1 min", "1 min 12 s", "1 h"),
        *("2 h 5 min", "2 h", "1 day 3 h", "3 days 11 h"),
    ]


def test_names_of_any_language_stay_and_control_characters_do_not() -> None:
    for name in ("plain", "wörld \N{SNOWMAN}", "数字", "a\N{NO-BREAK SPACE}b"):
        assert printable(name) == name
    assert (
        printable("\x1b[2J\x00\n\t\x7f\x85\u2028\u202e")
        == "\\x1b[2J\\x00\\n\\t\\x7f\\x85\\u2028\\u202e"
    )
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"
    assert printable("caf\udce9") == "caf\\xe9"


def test_verbs_agree() -> None:
    assert [being(number, "test image") for number in (1, 2)] == [
        "1 test image is",
        "2 test images are",
    ]


def test_number_ranges() -> None:
    assert number_ranges([7, 0, 1, 2, 9, 10]) == "0-2, 7, 9-10"
