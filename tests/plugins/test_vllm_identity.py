"""The identity of an engine's checkpoint."""

from emoguard_vllm.identity import _folder


def test_a_name_that_no_repository_can_have_is_in_no_folder() -> None:
    assert _folder("no such/place/on this machine", None) is None
