"""Talks to one server through one Python client library, in every way that people use it.

`python ways.py LIBRARY BASE_URL` prints one JSON object per line: the way, the text that the
library gave, and the `emoguard` object where the library lets its caller see one. The user's
message is the name of the way, so that the server knows which answer this was.
"""

import json
import os
import sys

# Litellm would fetch its price list at import.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}


def say(way):
    """Return the request's arguments in OpenAI's names."""
    return {
        "model": "served",
        "messages": [{"role": "user", "content": way}],
        "max_tokens": 24,
        "temperature": 0,
    }


def openai_ways(base):
    """openai-python: whole, chunk by chunk, and the helper that accumulates."""
    import openai

    chat = openai.OpenAI(base_url=base, max_retries=0, timeout=120).chat.completions

    def whole(way):
        done = chat.create(**say(way))
        return done.choices[0].message.content, done.model_extra.get("emoguard")

    def raw(way):
        text, actual = "", None
        for chunk in chat.create(**say(way), stream=True):
            actual = chunk.model_extra.get("emoguard", actual)
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
        return text, actual

    def helper(way):
        # Not get_final_completion: it raises where an answer ended at max_tokens.
        text, actual = "", None
        with chat.stream(**say(way)) as stream:
            for event in stream:
                if event.type == "chunk":
                    actual = event.chunk.model_extra.get("emoguard", actual)
                if event.type == "content.delta":
                    text = event.snapshot
        return text, actual

    return {"whole": whole, "raw": raw, "helper": helper}


def loop_ways(base):
    """openai-python as tutorials use it, and its older API."""
    import openai

    client = openai.OpenAI(base_url=base, max_retries=0, timeout=120)

    def naive(way):
        text = ""
        for chunk in client.chat.completions.create(**say(way), stream=True):
            content = chunk.choices[0].delta.content
            if content:
                text += content
        return text, None

    def plain(way):
        arguments = {**say(way), "prompt": way}
        del arguments["messages"]
        text, actual = "", None
        for chunk in client.completions.create(**arguments, stream=True):
            actual = chunk.model_extra.get("emoguard", actual)
            text += chunk.choices[0].text
        return text, actual

    return {"naive": naive, "plain": plain}


def litellm_ways(base):
    """litellm: whole and streamed; it builds objects of its own."""
    import litellm

    def ask(way, **more):
        arguments = {**say(way), "model": "openai/served"}
        return litellm.completion(**arguments, api_base=base, max_retries=0, timeout=120, **more)

    def whole(way):
        done = ask(way)
        return done.choices[0].message.content, getattr(done, "emoguard", None)

    def stream(way):
        text, actual = "", None
        for chunk in ask(way, stream=True):
            actual = getattr(chunk, "emoguard", actual)
            text += chunk.choices[0].delta.content or ""
        return text, actual

    return {"whole": whole, "stream": stream}


def langchain_ways(base):
    """langchain-openai: invoke and stream; keys it does not know are not kept."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="served", base_url=base, max_tokens=24, temperature=0, max_retries=0, timeout=120
    )

    def whole(way):
        return model.invoke(way).content, None

    def stream(way):
        return "".join(chunk.content for chunk in model.stream(way)), None

    return {"whole": whole, "stream": stream}


def llamaindex_ways(base):
    """llama-index-llms-openai-like: `raw` is openai-python's object."""
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="served",
        api_base=base,
        is_chat_model=True,
        max_tokens=24,
        temperature=0,
        max_retries=0,
        timeout=120,
    )

    def whole(way):
        done = model.chat([ChatMessage(role="user", content=way)])
        return done.message.content, done.raw.model_extra.get("emoguard")

    def stream(way):
        text, actual = "", None
        for chunk in model.stream_chat([ChatMessage(role="user", content=way)]):
            actual = chunk.raw.model_extra.get("emoguard", actual)
            text += chunk.delta or ""
        return text, actual

    return {"whole": whole, "stream": stream}


LIBRARIES = {
    "openai": openai_ways,
    "loop": loop_ways,
    "litellm": litellm_ways,
    "langchain": langchain_ways,
    "llamaindex": llamaindex_ways,
}


def main():
    """Go every way of one library."""
    library, base = sys.argv[1:]
    for name, go in LIBRARIES[library](base).items():
        way = f"{library} {name}"
        text, actual = go(way)
        sys.stdout.write(json.dumps({"way": way, "text": text, "emoguard": actual}) + "\n")


if __name__ == "__main__":
    main()
