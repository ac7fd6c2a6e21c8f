"""Joins EmoGuard to Hugging Face Transformers models.

The runtime is loaded with the first model, not with this package: what it opens can be asked
before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoguard.errors import EmoGuardError
from emoguard.policy.annotation import describe

if TYPE_CHECKING:
    from emoguard.probe.residuals import Residuals
    from emoguard.runtime.speaker import Speaker
    from emoguard_transformers.joint import TransformersJoint

__all__ = ["BATCHES", "FORMAT", "hint", "joint", "open_residuals", "open_speaker", "opens"]

FORMAT = "a Transformers folder"
BATCHES = True


def open_residuals(model: Any, tokenizer: Any = None) -> Residuals:
    """Return the offline door into a causal language model; `tokenizer` lets it read text."""
    from emoguard_transformers.door import Door

    _check_tokenizer(tokenizer)
    return Door(model, tokenizer)


def joint(model: Any, tokenizer: Any = None) -> TransformersJoint:
    """Return the joint to a model whose `generate` is to be watched.

    Give the `tokenizer` where there is one. Without it, reasoning (`<think>`) is not told apart and
    counts as the response in every score, and notices do not see the text: a claim in it, of being
    human say, is never found. The chat template is then no part of a calibration's identity.

    Generation without one pass per chosen token is refused or goes unread, as `on_unsupported` of
    the policy says: an assistant model or prompt lookup, beams, classifier-free guidance, and the
    caller's own loop (`custom_generate=`); continuous batching that is asynchronous, compiled or
    recorded as CUDA graphs. Managers that were made before the attach are not followed.

    Raises:
        EmoGuardError: something else than a tokenizer, an architecture without a known place to
            read.

    """
    from emoguard_transformers.joint import TransformersJoint

    _check_tokenizer(tokenizer)
    return TransformersJoint(model, tokenizer)


def opens(path: Path) -> bool:
    """Return whether a folder with a `config.json` lies at `path`."""
    return (path / "config.json").is_file()


def hint(path: Path) -> str:
    """Return what to give in place of a path that is no model."""
    if not path.exists():
        return _from_hub(path)
    if path.is_file():
        whole = (path.parent / "config.json").is_file()
        return f"it is a part of a Transformers model; give its folder {path.parent}" * whole
    if (path / "adapter_config.json").is_file():
        return "it holds an adapter; merge it into its base model, and give the folder of that"
    # A cache of the Hub keeps a model in models--owner--name/snapshots/commit.
    places = ("*/config.json", "snapshots/*/config.json")
    found = [each.parent for place in places for each in sorted(path.glob(place))]
    if found:
        return f"it holds no config.json; give {' or '.join(map(str, found[:3]))}"
    return "it holds no config.json; give the folder that save_pretrained wrote, or a GGUF file"


def open_speaker(path: Path, threads: int | None = None) -> Speaker:  # noqa: ARG001
    """Open a folder that `save_pretrained` wrote, or a GGUF file, which is dequantised.

    Raises:
        EmoGuardError: it has no tokenizer.
        ValueError, OSError: Transformers cannot load it.

    """
    from emoguard_transformers.speaker import TransformersSpeaker

    return TransformersSpeaker.load(path)


def _from_hub(path: Path) -> str:
    """Return how to download owner/name from the Hub, "" for a path of another shape."""
    is_pair = len(path.parts) == 2 and not path.is_absolute() and not path.parent.exists()
    if is_pair and path.suffix not in (".gguf", ".safetensors"):
        return f"download it from the Hub first, hf download {path} --local-dir FOLDER"
    return ""


def _check_tokenizer(tokenizer: Any) -> None:
    # Stand-ins may do part of what a tokenizer does: texts to ids, or telling its vocabulary.
    is_one = callable(tokenizer) or hasattr(tokenizer, "get_vocab")
    is_one = is_one and not isinstance(tokenizer, type)
    if tokenizer is not None and not is_one:
        raise EmoGuardError(
            f"tokenizer: wanted a tokenizer, got {describe(tokenizer)}: "
            "AutoTokenizer.from_pretrained opens one, and a processor has one as .tokenizer"
        )
