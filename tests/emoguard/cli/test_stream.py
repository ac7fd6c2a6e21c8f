from emoguard import Request
from emoguard.cli.stream import Stream
from emoguard.runtime.pieces import Pieces
from emoguard.testing import make_reading, make_report


class Watching:
    """A watch in the middle of a response of three tokens, the first at an attention sink."""

    def live(self):
        return make_reading(3, attention_sinks=1)


def test_a_token_at_an_attention_sink_is_shown_without_scores():
    shown = []
    stream = Stream(
        Watching(),
        Pieces(lambda ids: "".join(f"{n} " for n in ids)),
        lambda piece, scores: shown.append((piece, len(scores))),
    )
    stream.tick()
    assert shown == [("0 ", 0), ("1 ", 2), ("2 ", 2)]
    report = make_report(Request(scores="tokens"), tokens=5, attention_sinks=4)
    stream.finish(report, "0 1 2 3 4 ")
    assert shown[3:] == [("3 ", 0), ("4 ", 2)]
