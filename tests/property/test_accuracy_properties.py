"""Reading options: decoration never matters, hedging never helps."""

import string

from hypothesis import given
from hypothesis import strategies as st

from faithful_rl.rewards.accuracy import normalise, read_options

OPTIONS = ("left", "right", "above", "below")
index = st.integers(0, 3)
decoration = st.text(alphabet=".,:;!?()[]{}*'\"` \n\t", max_size=4)


@given(index, decoration, decoration, st.booleans())
def test_a_decorated_letter_is_the_letter(option, before, after, upper):
    letter = string.ascii_uppercase[option] if upper else string.ascii_lowercase[option]
    assert read_options(before + letter + after, OPTIONS) == {option}


@given(index, decoration, decoration, st.sampled_from([str.upper, str.lower, str.title]))
def test_a_decorated_option_text_is_the_option(option, before, after, case):
    assert read_options(before + case(OPTIONS[option]) + after, OPTIONS) == {option}


@given(index, index, st.sampled_from([" or ", ", ", "/", " and ", " B ", "\n", ""]))
def test_two_letters_are_no_answer(first, second, join):
    assert read_options(string.ascii_uppercase[first] + join + string.ascii_uppercase[second], OPTIONS) == frozenset()


@given(st.text(max_size=30))
def test_any_text_has_a_defined_reading_of_at_most_one_option(text):
    assert len(read_options(text, OPTIONS)) <= 1


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_that_is_ascii(text):
    if text.isascii():
        assert normalise(normalise(text)) == normalise(text)
