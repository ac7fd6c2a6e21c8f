"""Binds functions that llama-cpp-python lacks: the layer-input read, tensors in the callback.

Native memory is touched here and in `ctypes_gguf` alone; symbols are looked up in `ctypes_symbols`.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as bindings

from emoguard.errors import EmoGuardError
from emoguard_llamacpp.ctypes_symbols import bind, symbol

if TYPE_CHECKING:
    from numpy.typing import NDArray

Callback = Callable[[int], bool]
"""From the address of a node to an answer; must not raise, see `nodes.Nodes`."""

SET_LAYER_INPUT = (
    "llama_set_embeddings_layer_inp",
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
)
GET_LAYER_INPUT = (
    "llama_get_embeddings_layer_inp",
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
)
"""C name, Itanium and MSVC manglings: the functions are declared in a C++ header."""

GGML_OBJECT_BYTES = 32
FLOAT32 = 0
"""GGML_TYPE_F32."""


class Tensor(ctypes.Structure):
    """`struct ggml_tensor`; `check_layout` compares it with the loaded library."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


@functools.cache
def check_layout() -> None:
    """Compare `Tensor` with the library, once, before any tensor is looked at.

    Raises:
        EmoGuardError: the library lays tensors out differently.

    """
    tensor = Tensor(type=FLOAT32, ne=(3, 5, 1, 1), nb=(4, 12, 60, 60), data=64)
    pointer = ctypes.byref(tensor)
    name_at = ctypes.addressof(tensor) + Tensor.name.offset
    layout = (
        bind(ctypes.c_int64, (ctypes.c_void_p,), "ggml_nelements")(pointer),
        bind(ctypes.c_size_t, (ctypes.c_void_p,), "ggml_nbytes")(pointer),
        bind(ctypes.c_void_p, (ctypes.c_void_p,), "ggml_get_data")(pointer),
        bind(ctypes.c_void_p, (ctypes.c_void_p,), "ggml_get_name")(pointer),
        bind(ctypes.c_size_t, (), "ggml_tensor_overhead")(),
    )
    wanted = (15, 60, 64, name_at, ctypes.sizeof(Tensor) + GGML_OBJECT_BYTES)
    if layout != wanted or Tensor.name.offset % 8:
        raise EmoGuardError(
            f"llama-cpp-python {llama_cpp.__version__} lays tensors out in an unknown way: "
            "reading through the callback is not possible with this version; install a version "
            "that docs/reference/models.md names"
        )


def has_layer_input() -> bool:
    """Return whether the library exports the native read."""
    return symbol(*SET_LAYER_INPUT) is not None and symbol(*GET_LAYER_INPUT) is not None


@functools.cache
def _layer_input() -> tuple[Any, Any]:
    context, layer = ctypes.c_void_p, ctypes.c_uint32
    return (
        bind(None, (context, layer, ctypes.c_bool), *SET_LAYER_INPUT),
        bind(ctypes.c_void_p, (context, layer), *GET_LAYER_INPUT),
    )


def keep_layer_input(context: Any, layer: int, *, on: bool) -> None:
    """Switch the copy of the input of block `layer` on or off in a live context."""
    _layer_input()[0](context, layer, on)


def layer_input(context: Any, layer: int, rows: int, hidden: int) -> NDArray[np.float32]:
    """Return a copy of the input of block `layer` in the last decode, float32 (rows, hidden)."""
    address = _layer_input()[1](context, layer)
    if not address:
        raise EmoGuardError(f"llama.cpp kept no input of block {layer}: nothing was decoded yet")
    out = np.empty((rows, hidden), np.float32)
    ctypes.memmove(out.ctypes.data, address, out.nbytes)
    return out


def layer_input_view(context: Any, layer: int, rows: int, hidden: int) -> NDArray[np.float32]:
    """Return `layer_input` without copying: valid until the next decode."""
    address = _layer_input()[1](context, layer)
    if not address:
        raise EmoGuardError(f"llama.cpp kept no input of block {layer}: nothing was decoded yet")
    return np.ctypeslib.as_array((ctypes.c_float * (rows * hidden)).from_address(address)).reshape(
        rows, hidden
    )


def row_copier(
    context: Any, layers: Sequence[int], into: NDArray[np.float32]
) -> Callable[[int], None]:
    """Return a function that copies one row of the last decode, layer by layer, to `into`.

    `into` is float32 (layers, hidden); the function takes the number of the row in the last batch.
    """
    get, move, width = _layer_input()[1], ctypes.memmove, into[0].nbytes
    places = [(layer + 1, into[n].ctypes.data) for n, layer in enumerate(layers)]

    def copy(row: int) -> None:
        for block, place in places:
            move(place, get(context, block) + row * width, width)

    return copy


def make_callback(function: Callback) -> Any:
    """Return `function(tensor address)` as a `cb_eval`; keep the result alive.

    llama.cpp calls it for every node of every graph, so the other arguments (whether it asks, and
    user data) are not even converted: with the C calling conventions of all supported platforms a
    callee may ignore them.
    """
    short = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(function)
    # The cast object keeps the first one alive.
    return ctypes.cast(short, bindings.ggml_backend_sched_eval_callback)


def release_callback(callback: Any) -> None:
    """Release the function of a callback that no context calls any more.

    A cast object and its referents form a cycle: the function, and with it the model, would wait
    for the garbage collector.
    """
    callback._objects.clear()  # noqa: SLF001


NAMES = (ctypes.c_uint64 * 2**50).from_address(Tensor.name.offset)
"""All of memory in words of 8 bytes: `NAMES[address >> 3]` are the first eight bytes of the name of
the tensor at an address. Reading them through `string_at` costs three times the whole callback."""


def name_heads(names: Iterable[bytes]) -> Container[int]:
    """Return the first eight bytes of tensors' names, a container of words as `NAMES` has them."""
    heads = {name[:8] for name in names}
    if all(len(name) + 1 >= 8 for name in heads):
        return frozenset(int.from_bytes(head.ljust(8, b"\0"), sys.byteorder) for head in heads)
    return ShortHeads(heads)


class ShortHeads:
    """Heads of shorter names: the bytes behind such a name are arbitrary."""

    def __init__(self, heads: AbstractSet[bytes]) -> None:
        self._heads = heads

    def __contains__(self, word: object) -> bool:
        assert isinstance(word, int)
        return word.to_bytes(8, sys.byteorder).partition(b"\0")[0] in self._heads


def tensor_name(address: int) -> bytes:
    """Return the name of the tensor at `address`."""
    return ctypes.string_at(address + Tensor.name.offset)


@functools.cache
def _tensor_get() -> Any:
    arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    return bind(None, arguments, "ggml_backend_tensor_get")


def tensor_rows(address: int, hidden: int) -> NDArray[np.float32]:
    """Return all rows of the tensor at `address`: float32 (rows, hidden)."""
    out = np.empty((row_count(address, hidden), hidden), np.float32)
    _tensor_get()(address, out.ctypes.data, 0, out.nbytes)
    return out


def copy_last_row(address: int, hidden: int, into: int) -> None:
    """Copy the last row of the tensor at `address` to the memory at `into`."""
    copy_row(address, hidden, row_count(address, hidden) - 1, into)


def copy_row(address: int, hidden: int, place: int, into: int) -> None:
    """Copy row number `place` of a tensor that `row_count` has checked to the memory at `into`."""
    _tensor_get()(address, into, place * 4 * hidden, 4 * hidden)


def write_row(address: int, hidden: int, place: int, source: int) -> None:
    """Overwrite row number `place` of a tensor that was checked, from the memory at `source`."""
    _tensor_set()(address, source, place * 4 * hidden, 4 * hidden)


@functools.cache
def _tensor_set() -> Any:
    arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    return bind(None, arguments, "ggml_backend_tensor_set")


def row_count(address: int, hidden: int) -> int:
    """Return the number of rows of a residual; refuse other tensors."""
    tensor = Tensor.from_address(address)
    shape = tensor.ne
    if (tensor.type, shape[0], shape[2], tensor.nb[1]) != (FLOAT32, hidden, 1, 4 * hidden):
        raise EmoGuardError(
            f"{tensor.name.decode(errors='replace')} must be float32 of shape (tokens, {hidden}), "
            f"got type {tensor.type} of shape {tuple(shape)[::-1]}: this model cannot be read"
        )
    return int(shape[1])


@contextmanager
def own_context(
    llm: Any,
    tokens: int,
    chunk: int,
    callback: Callback | None = None,
    sequences: int = 1,
    *,
    apart: bool = False,
) -> Iterator[Any]:
    """Make a second context on `llm`'s weights, with its settings and LoRA; free it at the end.

    It holds `tokens` tokens, of `sequences` texts together, and takes at most `chunk` per pass.
    `apart` gives each text an equal part of its own: a token attends over no other text's.
    """
    params = copy_params(llm.context_params)
    params.n_ctx = max(tokens, 32)
    params.n_seq_max = sequences
    # One cache for all sequences: any of them may be long, and a pass is not split by sequence.
    params.kv_unified = not apart and (sequences > 1 or params.kv_unified)
    params.n_batch = params.n_ubatch = min(params.n_ctx, chunk)
    # One text from its beginning needs no more than the window; saves llama.cpp a warning, too.
    params.swa_full = False
    own = None
    if callback is not None:
        check_layout()
        params.cb_eval = own = make_callback(callback)
    context = _new_context(llm, params)
    try:
        yield context
    finally:
        bindings.llama_free(context)
        if own is not None:
            release_callback(own)


def swap_context(llm: Any, callback: Any = None, *, keep_state: bool = False) -> None:
    """Give `llm` a new context with its own parameters, LoRA and threads, and free the old one.

    `callback` becomes the new context's `cb_eval`. `keep_state` carries the KV cache over bit by
    bit; without it the cache starts empty. On an error `llm` keeps its old context.
    """
    holder = llm._ctx  # noqa: SLF001
    params = copy_params(holder.params)
    if callback is not None:
        params.cb_eval = callback
    old = holder.ctx
    new = _new_context(llm, params)
    bindings.llama_set_n_threads(
        new, bindings.llama_n_threads(old), bindings.llama_n_threads_batch(old)
    )
    if keep_state:
        _copy_state(old, new)
    holder.ctx, holder.memory = new, bindings.llama_get_memory(new)
    holder.emoguard_callback = callback  # lives as long as the context that calls it
    bindings.llama_free(old)
    if not keep_state:
        llm.reset()


def _new_context(llm: Any, params: Any) -> Any:
    context = bindings.llama_init_from_model(llm.model, params)
    if context is None:
        raise EmoGuardError(
            f"llama.cpp could not make a second context of {params.n_ctx} tokens: free some memory "
            "or load the Llama with a smaller n_ctx"
        )
    try:
        apply_lora(llm, context)
    except EmoGuardError:
        bindings.llama_free(context)
        raise
    return context


def _copy_state(old: Any, new: Any) -> None:
    """Copy one context to another, which is freed if that fails."""
    size = bindings.llama_state_get_size(old)
    state = (ctypes.c_uint8 * size)()
    written = bindings.llama_state_get_data(old, state, size)
    if bindings.llama_state_set_data(new, state, written) != written:
        bindings.llama_free(new)
        raise EmoGuardError("llama.cpp could not carry its state over to another context")


def last_logits(llm: Any, context: Any) -> NDArray[np.float32]:
    """Return a copy of the logits after the last decoded token, float32 (vocabulary,)."""
    pointer = bindings.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(pointer, shape=(llm.n_vocab(),)).copy()


def is_end(llm: Any, token: int) -> bool:
    """Return whether `token` ends a generation."""
    return bool(bindings.llama_vocab_is_eog(llm._model.vocab, token))  # noqa: SLF001


def copy_params(params: Any) -> Any:
    """Return a copy of context parameters that can be changed without changing the original."""
    return bindings.llama_context_params.from_buffer_copy(params)


def apply_lora(llm: Any, context: Any) -> None:
    """Give `context` the LoRA adapter, with its scale, that `llm` was loaded with."""
    if llm._lora_adapter is None:  # noqa: SLF001
        return
    adapters = (bindings.llama_adapter_lora_p_ctypes * 1)(llm._lora_adapter)  # noqa: SLF001
    scales = (ctypes.c_float * 1)(llm.lora_scale)
    if bindings.llama_set_adapters_lora(context, adapters, 1, scales):
        raise EmoGuardError(f"llama.cpp could not apply the LoRA adapter {llm.lora_path} again")


def decode(context: Any, tokens: list[int]) -> None:
    """Run `tokens` after what `context` already holds; only the last one gets logits."""
    array = (bindings.llama_token * len(tokens))(*tokens)
    code = bindings.llama_decode(context, bindings.llama_batch_get_one(array, len(tokens)))
    if code:
        raise EmoGuardError(
            f"llama.cpp could not run {len(tokens)} tokens: llama_decode gave {code}"
        )


def decode_texts(
    context: Any, rows: Sequence[tuple[int, int, int]], logits: Container[int] = ()
) -> None:
    """Run tokens of several texts in one pass; the rows numbered in `logits` get them.

    `rows` holds (token, position in its text, number of its text).
    """
    batch = bindings.llama_batch_init(len(rows), 0, 1)
    try:
        batch.n_tokens = len(rows)
        for n, (token, position, text) in enumerate(rows):
            batch.token[n], batch.pos[n], batch.logits[n] = token, position, n in logits
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, text
        code = bindings.llama_decode(context, batch)
    finally:
        bindings.llama_batch_free(batch)
    if code:
        raise EmoGuardError(f"llama.cpp could not run {len(rows)} tokens: llama_decode gave {code}")


def forget(context: Any) -> None:
    """Drop all texts that `context` holds."""
    bindings.llama_memory_clear(bindings.llama_get_memory(context), False)


def move_text(context: Any, text: int, number: int) -> None:
    """Give a text that `context` holds another number; the text that had it is dropped."""
    memory = bindings.llama_get_memory(context)
    bindings.llama_memory_seq_rm(memory, number, -1, -1)
    bindings.llama_memory_seq_cp(memory, text, number, -1, -1)
    bindings.llama_memory_seq_rm(memory, text, -1, -1)
