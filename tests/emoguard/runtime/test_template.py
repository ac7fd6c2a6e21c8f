import pytest

from emoguard.runtime.template import opens_reasoning


def turns(end, **ends):
    """A template that writes turns, then `end`, or another end for a switch that is on."""

    def render(messages, **switches):
        body = "".join(f"<|{m['role']}|>{m['content']}<|end|>\n" for m in messages)
        chosen = next((ends[name] for name, on in switches.items() if on and name in ends), end)
        return f"{body}<|assistant|>{chosen}"

    return render


def broken(messages, **switches):
    raise RuntimeError("this template wants something else")


def picky(messages, **switches):
    if "enable_thinking" not in switches:
        raise TypeError("enable_thinking is missing")
    return turns("<think>")(messages)


@pytest.mark.parametrize(
    ("render", "opens"),
    [
        (turns("\n"), False),
        (turns("<think>"), True),
        (turns("\n<think>\n\n"), True),
        (turns("<think>\n\n</think>\n\n"), False),
        (turns("\n", enable_thinking="<think>\n"), True),
        (turns("</think>", thinking="<think>"), True),
        (lambda messages, **_: messages[0]["content"], False),
        (lambda messages, **_: f"<think>{messages[0]['content']}", False),
        (broken, False),
        (picky, True),
    ],
)
def test_only_text_behind_the_last_message_counts(render, opens):
    assert opens_reasoning(render, "<think>") == opens
