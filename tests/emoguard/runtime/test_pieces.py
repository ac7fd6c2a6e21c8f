from hypothesis import given
from hypothesis import strategies as st

from emoguard.runtime.pieces import Pieces, split


def decode(ids):
    return bytes(ids).decode("utf-8", "replace")


@given(st.text(min_size=1, max_size=20))
def test_pieces_of_split_characters_join_to_the_text(text):
    assert "".join(split(decode, text.encode())) == text


def test_a_split_character_belongs_to_its_last_token():
    assert split(decode, "aé!".encode()) == ("a", "", "é", "!")


def test_bytes_that_never_become_a_character_do_not_hold_up_the_text():
    pieces = Pieces(decode)
    text = "".join(pieces.add(byte) for byte in b"\xff\xff\xff\xff\xff\xff\xff\xffok, next")
    assert text.endswith("next")
